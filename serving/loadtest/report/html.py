"""Renders results and comparisons as self-contained HTML pages without network access, scripts or other files."""

import functools
from datetime import datetime

import jinja2

from hangtag.page.series import looks
from hangtag.page.templates import environment
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.answer import Front
from hangtag.serving.loadtest.comparison.compare import MACHINE, SavedComparison
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER
from hangtag.serving.loadtest.measuring.measured_run import LATENCY_SHARE
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.report import charts
from hangtag.serving.loadtest.report.charts import ModelPoint
from hangtag.serving.loadtest.report.json_document import ResultsDocument
from hangtag.serving.loadtest.report.table import groups_of, groups_of_saved


def render(results: ResultsDocument) -> str:
    front, targets = Front(results), {target.name: target for target in results.targets}
    choices = [
        ModelPoint(name, accuracy.interval, run.latency(99).interval(), front.is_beaten(name), size or 0)
        for name, run in front.runs.items()
        for accuracy, size in [(targets[name].accuracy, targets[name].file_bytes)]
        if accuracy
    ]
    return _template("report.html.j2").render(
        results=results,
        settings=results.scenario,
        looks=looks(results.scenario.names),
        charts=charts,
        choices=choices,
        common_load=front.load,
        groups=groups_of(results),
        latency_share=LATENCY_SHARE,
        delayed_after_ms=DELAYED_AFTER * 1e3,
    )


def render_comparison(comparison: SavedComparison) -> str:
    groups = groups_of_saved(comparison)
    return _template("comparison.html.j2").render(
        before=comparison.before,
        after=comparison.after,
        differences=comparison.setting_differences | comparison.environment_differences,
        machine_differs=any(label in MACHINE for label in comparison.environment_differences),
        looks=looks(("before", "after")),
        groups=groups,
        charts=charts,
        scale=charts.latency_range(run for group in groups for run in group.runs),
    )


@functools.cache
def _template(name: str) -> jinja2.Template:
    """Load a template of this package, with the filters that format figures."""
    templates = environment("hangtag.serving.loadtest.report")
    templates.filters |= {
        "moment": lambda text: datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M UTC"),
        "duration": units.duration,
        "rate": units.three_digits,
        "count": "{:,}".format,
        "times": units.times,
        "ratio": units.ratio,
        "duration_span": lambda interval: units.duration_span(interval.low, interval.high),
    }
    templates.tests["open_loop"] = lambda load: isinstance(load, OpenLoop)
    return templates.get_template(name)
