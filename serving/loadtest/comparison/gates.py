"""Conditions under which a load test fails: `lstm.p99 > 5ms`, `cnn.throughput < 0.95 * baseline`."""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "%": 0.01, "": 1.0}
BASELINE = "baseline"

_METRIC = r"throughput|samples_per_second|p\d{1,2}(?:\.\d+)?|max|errors|error_rate|accuracy|peak"


def _figure(prefix: str) -> str:
    return rf"(?P<{prefix}target>[^\s\[\]*<>=]+?)(?:\[(?P<{prefix}load>[^\]]+)\])?\.(?P<{prefix}metric>{_METRIC})"


_NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_GATE = re.compile(
    rf"\s*{_figure('')}\s*(?P<operator>>=|<=|>|<)\s*"
    rf"(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?:(?P<baseline>{BASELINE})|{_figure('other_')})"
    rf"|(?P<value>{_NUMBER})\s*(?P<unit>us|µs|ms|s|%)?)\s*"
)
SHAPE = "write TARGET.METRIC > VALUE, for example 'lstm.p99 > 5ms' or 'cnn.throughput < 0.95 * baseline'"


class Baseline(Protocol):
    """Saved results, as far as gates read them."""

    @property
    def accuracies(self) -> Mapping[str, float]:
        """Shares between 0 and 1, by target."""

    @property
    def peaks(self) -> Mapping[str, float]:
        """Calls a second, by target."""

    def run(self, target: str, load: Load) -> Run | None:
        """The run of this target under this load."""


@dataclass(frozen=True)
class Figure:
    """What a gate looks at: a metric of a target, under one load or all."""

    target: str
    metric: str
    load: str | None = None


@dataclass(frozen=True)
class Gate:
    """A condition that makes the test fail where it holds."""

    text: str
    figure: Figure
    compare: str
    factor: float  # Of `against`, or the value itself where that is None.
    against: Figure | None = None
    against_baseline: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a gate, in a sentence."""

    condition: str
    failed: bool
    sentence: str


def parse(text: str, targets: tuple[str, ...], has_baseline: bool) -> Gate:
    """A condition in words. Raises ValueError, also for a target that is not measured."""
    found = _GATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a condition: {SHAPE}")
    figure = Figure(found["target"], found["metric"], found["load"])
    against = (
        Figure(found["other_target"], found["other_metric"], found["other_load"]) if found["other_target"] else None
    )
    for name in {figure.target} | ({against.target} if against else set()):
        if name not in targets:
            raise ValueError(f"{text!r} is about {name!r}, which is not measured: {', '.join(targets)} are")
    if found["baseline"] and not has_baseline:
        raise ValueError(f"{text!r} needs the saved results to compare with: give --baseline FILE.json")
    number = found["value"] or found["factor"] or "1"
    return Gate(
        text=text.strip(),
        figure=figure,
        compare=found["operator"],
        factor=float(number) * UNITS[found["unit"] or ""],
        against=against,
        against_baseline=bool(found["baseline"]),
    )


def judge(gate: Gate, results: Results, baseline: Baseline | None = None) -> Outcome:
    """Whether the condition holds anywhere. What cannot be judged fails: a gate that sees nothing protects nothing."""
    seen = []
    for load in _loads(gate.figure, results):
        value = _value(gate.figure, results, load)
        bound = gate.factor * _against(gate, results, baseline, load)
        where = f" at {load}" if load is not None else ""
        shown = f"{gate.figure.target}'s {gate.figure.metric}{where} is {_show(gate.figure.metric, value)}"
        if math.isnan(value) or math.isnan(bound):
            missing = shown if math.isnan(value) else f"there is nothing VALID to compare it with{where}"
            return Outcome(gate.text, True, f"{gate.text} cannot be judged: {missing}")
        told = f"{shown}, the bound {_show(gate.figure.metric, bound)}"
        if OPERATORS[gate.compare](value, bound):
            return Outcome(gate.text, True, f"{gate.text}: {told}")
        seen.append(told)
    if not seen:
        return Outcome(gate.text, True, f"{gate.text} cannot be judged: {gate.figure.target} has no such run")
    return Outcome(gate.text, False, f"not {gate.text}: {'; '.join(seen)}")


def _loads(figure: Figure, results: Results) -> Iterator[Load | None]:
    if figure.metric in ("accuracy", "peak"):
        yield None
        return
    for run in results.runs:
        wanted = figure.load is None or figure.load.strip() in (str(run.load), str(run.load).split(" ")[0])
        if run.target == figure.target and wanted:
            yield run.load


def _against(gate: Gate, results: Results, baseline: Baseline | None, load: Load | None) -> float:
    """What the factor multiplies."""
    if gate.against is not None:
        return _value(gate.against, results, load)
    if not gate.against_baseline:
        return 1.0
    assert baseline is not None
    figure = gate.figure
    if load is None:
        known = baseline.accuracies if figure.metric == "accuracy" else baseline.peaks
        return known.get(figure.target, math.nan)
    run = baseline.run(figure.target, load)
    # An INVALID run is compared nowhere: whatever it would let pass, it could hide as well.
    return math.nan if run is None or not run.valid else _of_run(run, figure.metric)


def _value(figure: Figure, results: Results, load: Load | None) -> float:
    if figure.metric == "accuracy":
        accuracy = results.accuracies.get(figure.target)
        return math.nan if accuracy is None else accuracy.share
    if figure.metric == "peak":
        peak = next((peak.rate for peak in results.peaks if peak.target == figure.target), None)
        return math.nan if peak is None else peak
    run = next((run for run in results.runs if run.target == figure.target and run.load == load), None)
    return math.nan if run is None else _of_run(run, figure.metric)


def _of_run(run: Run, metric: str) -> float:
    total = run.total
    simple: dict[str, float] = {
        "throughput": run.throughput,
        "samples_per_second": run.samples_per_second,
        "errors": total.failed,
        "error_rate": total.failed / total.queries if total.queries else math.nan,
        "max": total.latency.maximum,
    }
    return simple[metric] if metric in simple else total.latency.percentile(float(metric[1:]))


def _show(metric: str, value: float) -> str:
    if metric in ("accuracy", "error_rate"):
        return f"{value:.2%}" if not math.isnan(value) else units.NONE
    if metric in ("throughput", "samples_per_second", "peak"):
        return f"{units.three_digits(value)}/s"
    return units.count(round(value)) if metric == "errors" and not math.isnan(value) else units.duration(value)
