"""Renders results as one self-contained HTML page: no network, no script, no other file."""

import functools
import math
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from datetime import datetime

import jinja2
from markupsafe import Markup

from hangtag.page.environment import environment
from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import Comparison
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.comparison.transports import transport_costs
from hangtag.serving.loadtest.generator.block_result import DELAYED_AFTER, OK
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.report import pictures
from hangtag.serving.loadtest.report.pictures.overview import ModelPoint


@dataclass(frozen=True)
class Headline:
    """A target's main figures: label, value, and the load under which it was measured."""

    target: str
    figures: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class TimeSplit:
    """A query's mean time by part: label, CSS class, seconds, and width in percent of the longest bar."""

    run: Run
    parts: tuple[tuple[str, str, float, float], ...]


def render(results: Results, comparisons: Sequence[Comparison], outcomes: Sequence[GateOutcome] = ()) -> str:
    """The HTML text."""
    names = results.scenario.names
    measured = [run for run in results.runs if run.total.latency]
    closed = [run for run in measured if isinstance(run.load, ClosedLoop)]
    loads = tuple(dict.fromkeys(run.load for run in measured))
    choices, choice_load = accuracy_choices(results)
    return page_template("report.html.j2").render(
        results=results,
        started=datetime.fromisoformat(results.started).strftime("%d %B %Y, %H:%M UTC"),
        comparisons=comparisons,
        transport_costs=transport_costs(results),
        outcomes=outcomes,
        series={name: pictures.series_variable(index) for index, name in enumerate(names)},
        headlines=[headline for name in names if (headline := _headline(results, name)).figures],
        pareto_picture=Markup(pictures.accuracy_and_latency(choices, names)) if choices else None,  # noqa: S704
        pareto_load=choice_load,
        choices=choices,
        sources=list(dict.fromkeys(results.sources[choice.target] for choice in choices)),
        throughput_picture=Markup(pictures.throughput_and_latency(closed, names)) if closed else None,  # noqa: S704
        load_pictures=[
            (
                load,
                Markup(pictures.latency_by_percentile(runs, names)),  # noqa: S704
                Markup(pictures.latency_over_time(runs, names)) if any(run.total.timeline for run in runs) else None,  # noqa: S704
                _splits(runs),
            )
            for load in loads
            if (runs := [run for run in measured if run.load == load])
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


def accuracy_choices(results: Results) -> tuple[list[ModelPoint], Load | None]:
    """The targets with their accuracy and p99 latency, and the load of that latency.

    That load is the `common_load`.
    """
    names = set(results.accuracies)
    load = common_load(results, names)
    if not names or load is None:
        return [], None
    return [
        ModelPoint(
            target=run.target,
            accuracy=results.accuracies[run.target].share,
            latency=run.total.latency.percentile(99),
            file_bytes=results.descriptions[run.target].file_bytes,
        )
        for run in results.under(load)
        if run.target in names
    ], load


def common_load(results: Results, names: Set[str]) -> Load | None:
    """The load whose figures stand for these targets; None if there is no load under which all of them are VALID.

    It is the lightest open loop, since an open loop is most like real use; else the lightest closed loop.
    """
    for load in sorted(results.loads, key=lambda load: isinstance(load, ClosedLoop)):
        if {run.target for run in results.under(load) if run.valid and run.total.latency} >= names:
            return load
    return None


def _splits(runs: Sequence[Run]) -> list[TimeSplit]:
    """Split mean service times: queue and compute from the server's statistics; the rest is network and generator."""
    splits = []
    longest = max(run.total.service.mean for run in runs)
    for run in runs:
        server, service_time = run.total.server, run.total.service.mean
        if server is None or not server.count or math.isnan(service_time):
            continue
        queue = server.mean("queue")
        compute = sum(server.mean(part) for part in ("compute_input", "compute_infer", "compute_output"))
        rest = max(service_time - queue - compute, 0.0)
        parts = (("queue", "queue", queue), ("compute", "compute", compute), ("network and both ends", "network", rest))
        scale = 100 / max(longest, queue + compute)
        splits.append(TimeSplit(run, tuple((label, css, seconds, seconds * scale) for label, css, seconds in parts)))
    return splits


def _headline(results: Results, name: str) -> Headline:
    runs = [run for run in results.runs if run.target == name and run.total.latency]
    closed = [run for run in runs if isinstance(run.load, ClosedLoop)]
    figures = []
    accuracy = results.accuracies.get(name)
    if accuracy is not None:
        figures.append(("accuracy", f"{accuracy.share:.2%}", f"{accuracy.total:,} samples"))
    for peak in results.peaks:
        if peak.target == name and peak.rate is not None:
            figures.append(("peak", f"{units.three_digits(peak.rate)}/s", "within the target latency"))
    if closed:
        fastest = max(closed, key=lambda run: run.throughput)
        figures.append(("peak throughput", f"{units.three_digits(fastest.throughput)}/s", _load_of(fastest)))
    load = common_load(results, set(results.scenario.names))
    for run in [run for run in runs if run.load == load] or runs[:1]:
        for q in (50, 99):
            figures.append((f"p{q} latency", units.duration(run.total.latency.percentile(q)), _load_of(run)))
    return Headline(name, tuple(figures))


def _load_of(run: Run) -> str:
    return str(run.load) if run.valid else f"{run.load}, INVALID"


@functools.cache
def page_template(name: str) -> jinja2.Template:
    """Load a template of this package, with the filters that format figures."""
    templates = environment("hangtag.serving.loadtest.report")
    templates.filters |= {
        "duration": units.duration,
        "rate": units.three_digits,
        "count": units.count,
        "times": units.times,
    }
    templates.tests["open_loop"] = lambda load: isinstance(load, OpenLoop)
    return templates.get_template(name)
