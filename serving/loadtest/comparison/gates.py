"""Parses and judges gates: the conditions of --fail-if, such as `lstm.p99 > 5ms` or `cnn.peak < 0.9 * baseline`."""

import math
import operator
import re
from dataclasses import dataclass
from pathlib import Path

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import SavedResults
from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.record import stored

OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
SHARE_METRICS = ("accuracy", "error_rate")
RATE_METRICS = ("throughput", "samples_per_second", "peak")
TEST_METRICS = ("accuracy", "peak")  # Metrics that a target has for the whole test, not for each load.

_FIGURE = (
    r"([^\s\[\]*<>=]+?)(?:\[([^\]]+)\])?"
    r"\.(throughput|samples_per_second|p\d{1,2}(?:\.\d+)?|max|errors|error_rate|accuracy|peak)"
)
_NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"
_GATE = re.compile(
    rf"\s*{_FIGURE}\s*(>=|<=|>|<)\s*"
    rf"(?:(?:{_NUMBER}\s*\*\s*)?(?:(baseline)|{_FIGURE})|{_NUMBER}\s*(us|µs|ms|s|%)?)\s*"
)
SYNTAX = (
    "write TARGET.METRIC > VALUE, for example 'lstm.p99 > 5ms' or 'cnn.throughput < 0.95 * baseline'; the metrics are "
    "throughput, samples_per_second, percentiles such as p50, max, errors, error_rate, accuracy and peak"
)


@dataclass(frozen=True)
class Figure:
    """A metric of a target under one load, or under every load if `load` is None."""

    target: str
    load: str | None
    metric: str
    saved: bool = False  # Whether the figure is read from the saved results, and not measured.

    @property
    def is_single(self) -> bool:
        """Whether the figure has one value in a test, and not a value for each load."""
        return self.load is not None or self.metric in TEST_METRICS

    def is_under(self, load: Load) -> bool:
        """Return whether this figure applies to a load. A condition may write a load as `8 in flight` or as `8`."""
        return self.load is None or self.load.strip() in (str(load), str(load).split(" ")[0])

    def values(self, results: SavedResults) -> dict[Load | None, float]:
        """Return the metric's value under each load. For a metric of the whole test, the only key is None.

        A missing value is NaN. If a baseline's run is INVALID, its value is NaN too, because an invalid value could
        hide a regression.
        """
        if self.metric in TEST_METRICS:
            known = results.accuracies if self.metric == "accuracy" else results.peaks
            return {None: known.get(self.target, math.nan)}
        runs = [run for run in results.runs if run.target == self.target and self.is_under(run.load)]
        return {run.load: math.nan if self.saved and not run.valid else _value(run, self.metric) for run in runs}


def _value(run: Run, metric: str) -> float:
    total = run.total
    values = {
        "throughput": run.throughput,
        "samples_per_second": run.samples_per_second,
        "errors": total.failed,
        "error_rate": total.failed / total.queries if total.queries else math.nan,
        "max": total.latency.maximum,
    }
    return values[metric] if metric in values else total.latency.percentile(float(metric[1:]))


@dataclass(frozen=True)
class Gate:
    """A condition under which the test fails. The condition compares `figure` with `factor` times `against`."""

    text: str
    figure: Figure
    operator: str
    factor: float  # The number by which `against` is multiplied; if `against` is None, the limit itself.
    against: Figure | None = None

    @property
    def needs_common_load(self) -> bool:
        """True if each run is compared with a run of the baseline, or of another target, under the same load."""
        other = self.against
        if other is None or self.figure.is_single or other.is_single:
            return False
        return other.saved or other.target != self.figure.target


def parse(text: str, scenario: Scenario, *, accuracy: bool, baseline: SavedResults | None) -> Gate:
    """Parse a condition such as `cnn[64].p99 > 2 * lstm.p99`. `accuracy` says whether the test measures the accuracy.
    Raises ValueError if the text is not a condition, is always true or false, or needs a value that is not measured."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
    target, load, metric, symbol, factor, is_saved, *other, value, unit = match.groups()
    against = None
    if is_saved:
        against = Figure(target, None, metric, saved=True)
    elif other[0]:
        against = Figure(other[0], other[1], other[2])
    limit = _limit(text, metric, symbol, float(value), unit or "") if value else float(factor or 1)
    gate = Gate(text.strip(), Figure(target, load, metric), symbol, limit, against)
    _require_judgeable(gate, scenario, accuracy, baseline)
    return gate


def _limit(text: str, metric: str, comparison: str, value: float, unit: str) -> float:
    """Convert a limit to the unit of the metric's figures. Raises ValueError if the limit's unit does not apply to the
    metric, or if the condition is always true or always false."""
    if metric in SHARE_METRICS:
        # A plain 1 is refused too, because the user may mean 1 %.
        if unit not in ("", "%") or (not unit and value >= 1):
            raise ValueError(f"{text!r}: {metric} is a share: write {value:g} %, or a number below 1")
        value = value / 100 if unit else value
        if value > 1 or (comparison == ">" and value == 1):
            raise ValueError(f"{text!r} is always true or always false: {metric} is a share, which is at most 100 %")
    elif metric in (*RATE_METRICS, "errors"):
        if unit:
            raise ValueError(f"{text!r}: {metric} is a plain number, without {unit!r}")
    elif unit in DURATION_UNITS:
        value *= DURATION_UNITS[unit]
    else:
        raise ValueError(f"{text!r}: {metric} is a duration: give its unit, for example {value:g}ms")
    if comparison == "<" and value == 0:
        raise ValueError(f"{text!r} can never hold: {metric} is never below 0")
    return value


def _require_judgeable(gate: Gate, scenario: Scenario, accuracy: bool, baseline: SavedResults | None) -> None:
    """Raise ValueError if the test does not measure a figure of the condition, or if the baseline lacks it."""
    text, other, loads = repr(gate.text), gate.against, scenario.planned_loads
    for figure in filter(None, (gate.figure, other)):
        if figure.target not in scenario.names:
            names = ", ".join(scenario.names)
            raise ValueError(f"{text} is about {figure.target!r}, but the test measures only {names}")
        if figure.saved:
            continue
        if figure.metric == "accuracy" and not accuracy:
            raise ValueError(f"{text} needs the accuracy: add --accuracy, and labelled --samples")
        if figure.metric == "peak" and not scenario.find_peak:
            raise ValueError(f"{text} needs a peak search: add --find-peak and --target-latency")
        if figure.load is not None and not (scenario.derives_rate or any(map(figure.is_under, loads))):
            raise ValueError(
                f"{text}: no run has the load {figure.load!r}, only {', '.join(map(str, loads))}. Add the load to "
                "--concurrency or --rate"
            )
    if gate.needs_common_load and not loads:
        raise ValueError(f"{text}: --find-peak chooses its own rates. Leave out --rate, or use the metric 'peak'")
    if other and gate.figure.metric in TEST_METRICS and not other.is_single:
        raise ValueError(f"{text}: the second figure needs a load: write {other.target}[LOAD].{other.metric}")
    if other and other.saved:
        if baseline is None:
            raise ValueError(f"{text} needs saved results with which to compare: give --baseline FILE.json")
        values = other.values(baseline)
        for load in (None,) if other.is_single else filter(gate.figure.is_under, loads):
            if math.isnan(values.get(load, math.nan)):
                at = "" if load is None else f" at {load}"
                raise ValueError(f"{text}: {baseline.file} has no VALID {other.metric} of {other.target}{at}")


@dataclass(frozen=True)
class GateOutcome:
    """The result of a gate: whether the gate failed, and the reason as a sentence."""

    condition: str = stored()
    failed: bool = stored()
    sentence: str = stored()


def judge(gate: Gate, results: Results, baseline: SavedResults | None = None) -> GateOutcome:
    """Evaluate a gate. The gate fails if its condition, which describes a failure, is true under a load or unknown."""
    text, other, metric = gate.text, gate.against, gate.figure.metric
    accuracies = {name: accuracy.share for name, accuracy in results.accuracies.items()}
    peaks = {peak.target: peak.rate for peak in results.peaks if peak.rate is not None}
    measured = SavedResults(Path(), results.started, results.environment, accuracies, peaks, results.runs)
    others = other.values(baseline if baseline is not None and other.saved else measured) if other else {}
    sentences, left_out = [], ""
    for load, value in gate.figure.values(measured).items():
        if gate.needs_common_load and load not in results.scenario.planned_loads and load not in others:
            left_out = f"; {load} is left out, because each test chose this rate automatically"
            continue
        bound = gate.factor
        if other is not None:
            bound *= next(iter(others.values()), math.nan) if other.is_single else others.get(load, math.nan)
        where = f" at {load}" if load is not None else ""
        shown = f"{gate.figure.target}'s {metric}{where} is {_show(metric, value)}"
        if math.isnan(value) or math.isnan(bound):
            missing = shown if math.isnan(value) else f"there is no VALID figure to compare with{where}"
            return GateOutcome(text, True, f"{text} cannot be judged: {missing}")
        sentences.append(f"{shown}, the limit is {_show(metric, bound)}")
        if OPERATORS[gate.operator](value, bound):
            return GateOutcome(text, True, f"{text}: {sentences[-1]}")
    if not sentences:
        return GateOutcome(text, True, f"{text} cannot be judged: {gate.figure.target} has no run to which it applies")
    return GateOutcome(text, False, f"not {text}: {'; '.join(sentences)}{left_out}")


def _show(metric: str, value: float) -> str:
    if metric in SHARE_METRICS:
        return f"{value:.2%}" if not math.isnan(value) else units.NONE
    if metric in RATE_METRICS:
        return f"{units.three_digits(value)}/s"
    return f"{round(value):,}" if metric == "errors" and not math.isnan(value) else units.duration(value)
