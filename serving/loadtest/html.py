"""The results as one HTML page that needs nothing else: no network, no script, no other file."""

import functools
from dataclasses import asdict, dataclass
from datetime import datetime

import jinja2
from markupsafe import Markup

from serving.loadtest import pictures, units
from serving.loadtest.comparison import Comparison
from serving.loadtest.recorder import DELAYED_AFTER, OK
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import ClosedLoop, OpenLoop


@dataclass(frozen=True)
class Headline:
    """A model's figures at a glance: label, value and under what load it was measured."""

    model: str
    figures: tuple[tuple[str, str, str], ...]


def render(results: Results, compared: tuple[Comparison, ...]) -> str:
    """The page."""
    models = results.scenario.models
    closed = [run for run in results.runs if isinstance(run.load, ClosedLoop) and run.total.latency]
    return _template().render(
        results=results,
        started=datetime.fromisoformat(results.started).strftime("%d %B %Y, %H:%M UTC"),
        comparisons=compared,
        series={model: pictures.series_of(place) for place, model in enumerate(models)},
        headlines=[headline for model in models if (headline := _headline(results, model)).figures],
        throughput_picture=Markup(pictures.throughput_and_latency(closed, models)) if closed else None,  # noqa: S704
        percentile_pictures=[
            (load, Markup(pictures.latency_by_percentile(runs, models)))  # noqa: S704
            for load in results.loads
            if (runs := [run for run in results.under(load) if run.total.latency])
        ],
        failures=[
            (run, status, count, run.total.details.get(status, ""))
            for run in results.runs
            for status, count in run.total.statuses.most_common()
            if status != OK
        ],
        settings=asdict(results.scenario),
        batched=results.scenario.batch_size > 1,
        delayed_after_ms=DELAYED_AFTER * 1e3,
    )


def _headline(results: Results, model: str) -> Headline:
    own = [run for run in results.runs if run.model == model and run.total.latency]
    closed = [run for run in own if isinstance(run.load, ClosedLoop)]
    figures = []
    if closed:
        peak = max(closed, key=lambda run: run.throughput)
        figures.append(("peak throughput", f"{units.three_digits(peak.throughput)}/s", str(peak.load)))
        figures.append(_latency(min(closed, key=lambda run: run.total.latency.percentile(50)), 50))
    figures += [_latency(run, 99) for run in own if isinstance(run.load, OpenLoop)][:1]
    return Headline(model, tuple(figures))


def _latency(run: Run, q: float) -> tuple[str, str, str]:
    return f"p{q:g} latency", units.duration(run.total.latency.percentile(q)), str(run.load)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("serving.loadtest"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": units.duration,
        "rate": units.three_digits,
        "count": units.count,
        "times": units.times,
    }
    environment.tests["open_loop"] = lambda load: isinstance(load, OpenLoop)
    return environment.get_template("report.html.j2")
