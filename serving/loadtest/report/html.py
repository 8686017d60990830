"""Renders results as a self-contained HTML page without network access, scripts or other files."""

import functools
import math
from collections.abc import Callable, Sequence
from datetime import datetime

import jinja2

from hangtag.page.series import looks
from hangtag.page.templates import environment
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.answer import Front, common_load
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER
from hangtag.serving.loadtest.measuring.measured_run import LATENCY_SHARE, Run
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.report import charts
from hangtag.serving.loadtest.report.charts import ModelPoint
from hangtag.serving.loadtest.report.json_document import ResultsDocument
from hangtag.serving.loadtest.report.table import groups_of
from hangtag.serving.loadtest.statistics.intervals import Sections


def render(results: ResultsDocument) -> str:
    """Return the page as HTML."""
    names = results.scenario.names
    measured = [run for run in results.runs if run.total.latency]
    choices, choice_load = accuracy_choices(results)
    return page_template("report.html.j2").render(
        results=results,
        settings=results.scenario,
        title=f"{len(names)} models compared" if len(names) > 2 else " and ".join(names),
        looks=looks(names),
        charts=charts,
        choices=choices,
        choice_load=choice_load,
        headline_of=functools.partial(_headline, results),
        closed=[run for run in measured if isinstance(run.load, ClosedLoop)],
        loads=[(load, runs) for load in results.loads if (runs := [run for run in measured if run.load == load])],
        splits_of=_splits,
        groups=groups_of(results),
        latency_share=LATENCY_SHARE,
        delayed_after_ms=DELAYED_AFTER * 1e3,
    )


def accuracy_choices(results: Results) -> tuple[list[ModelPoint], Load | None]:
    """Return the targets with their accuracy and p99 under the common load, and the common load."""
    front, targets = Front(results), {target.name: target for target in results.targets}
    points = [
        ModelPoint(name, accuracy.interval, run.latency(99).interval(), front.is_beaten(name), size or 0)
        for name, run in front.runs.items()
        for accuracy, size in [(targets[name].accuracy, targets[name].file_bytes)]
        if accuracy
    ]
    return points, front.load


def _splits(runs: Sequence[Run]) -> list[tuple[Run, list[tuple[str, str, float, float]]]]:
    """Split each mean service time into the server's queue and compute times, and the remaining time.

    Each part has a label, a CSS class, the mean seconds, and the width in percent of the longest bar.
    """
    splits = []
    longest = max(run.total.service_time.mean for run in runs)
    for run in runs:
        server, service_time = run.total.server, run.total.service_time.mean
        if server is None or not server.count or math.isnan(service_time):
            continue
        queue = server.mean("queue")
        compute = sum(server.mean(part) for part in ("compute_input", "compute_infer", "compute_output"))
        rest = max(service_time - queue - compute, 0.0)
        parts = (("queue", "queue", queue), ("compute", "compute", compute), ("network and both ends", "network", rest))
        scale = 100 / max(longest, queue + compute)
        splits.append((run, [(label, css, seconds, seconds * scale) for label, css, seconds in parts]))
    return splits


def _headline(results: Results, name: str) -> list[tuple[str, str, str, str]]:
    """Return a target's main figures, each with label, value, 95 % interval if known, and load."""
    figures = []
    if accuracy := results.accuracies.get(name):
        interval = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}"
        figures.append(("accuracy", f"{accuracy.share:.2%}", interval, f"{accuracy.total:,} samples"))
    for peak in results.peaks:
        if peak.target == name and peak.rate is not None:
            figures.append(("peak", _rate(peak.rate), "", "within the target latency"))
    runs = [run for run in results.runs if run.target == name and run.total.latency]
    if closed := [run for run in runs if isinstance(run.load, ClosedLoop)]:
        fastest = max(closed, key=lambda run: run.throughput)
        figures.append(_figure("peak throughput", fastest, fastest.rate, _rate))
    load = common_load(results)
    for run in [run for run in runs if run.load == load] or runs[:1]:
        figures += [_figure(f"p{q} latency", run, run.latency(q), units.duration) for q in (50, 99)]
    return figures


def _rate(rate: float) -> str:
    return f"{units.three_digits(rate)}/s"


def _figure(label: str, run: Run, figure: Sections, show: Callable[[float], str]) -> tuple[str, str, str, str]:
    interval, load = figure.interval(), str(run.load) if run.valid else f"{run.load}, INVALID"
    return label, show(figure.total), units.span(interval.low, interval.high, show), load


@functools.cache
def page_template(name: str) -> jinja2.Template:
    """Load a template of this package, with the filters that format figures."""
    templates = environment("hangtag.serving.loadtest.report")
    templates.filters |= {
        "moment": lambda text: datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M UTC"),
        "duration": units.duration,
        "rate": units.three_digits,
        "count": "{:,}".format,
        "times": units.times,
        "ratio": units.ratio,
        "duration_span": lambda interval: units.span(interval.low, interval.high, units.duration),
    }
    templates.tests["open_loop"] = lambda load: isinstance(load, OpenLoop)
    return templates.get_template(name)
