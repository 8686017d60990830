"""Parses and judges gates: the conditions of --fail-if, such as `lstm.p99 > 5ms` or `cnn.peak < 0.9 * baseline`."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import SavedResults
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.record import stored

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
SHARE_METRICS = ("accuracy", "error_rate")
RATE_METRICS = ("throughput", "samples_per_second", "peak")
TEST_METRICS = ("accuracy", "peak")  # Metrics that a target has for the whole test, not for each load.
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
SYNTAX = (
    "write TARGET.METRIC > VALUE, for example 'lstm.p99 > 5ms' or 'cnn.throughput < 0.95 * baseline'; the metrics are "
    "throughput, samples_per_second, percentiles such as p50, max, errors, error_rate, accuracy and peak"
)


@dataclass(frozen=True)
class Figure:
    """A metric of a target under one load, or under every load if `load` is None.

    `saved` says whether the figure is read from the saved results, and not measured.
    """

    target: str
    metric: str
    load: str | None = None
    saved: bool = False

    def is_under(self, load: Load) -> bool:
        """Return whether this figure applies to a load. A condition may write a load as `8 in flight` or as `8`."""
        return self.load is None or self.load.strip() in (str(load), str(load).split(" ")[0])


@dataclass(frozen=True)
class Gate:
    """A condition under which the test fails. The condition compares `figure` with `factor` times `against`."""

    text: str
    figure: Figure
    operator: str
    factor: float  # The factor of `against`, or the limit itself if `against` is None.
    against: Figure | None = None

    @property
    def needs_common_load(self) -> bool:
        """Whether the gate compares each run with a run of the baseline or of another target under the same load."""
        other = self.against
        if other is None or any(each.load is not None or each.metric in TEST_METRICS for each in (self.figure, other)):
            return False
        return other.saved or other.target != self.figure.target


def parse(text: str, scenario: Scenario, *, accuracy: bool, baseline: SavedResults | None) -> Gate:
    """Parse a condition, for example `cnn[64].p99 > 2 * lstm.p99`.

    A condition that this test cannot judge is refused now, before the test spends minutes on measuring.

    Args:
        text: The condition.
        scenario: The settings of the test.
        accuracy: Whether the test will measure the accuracy.
        baseline: The saved results with which the condition may compare.

    Raises:
        ValueError: The text is not a condition, names a missing target or baseline, has a unit that does not apply to
            the metric, can never hold, or needs a figure that the test does not measure. If the test does not measure
            the figure, the message names the option that would.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
    figure = Figure(match["target"], match["metric"], match["load"])
    against = None
    if match["baseline"]:
        against = Figure(figure.target, figure.metric, saved=True)
    elif match["other_target"]:
        against = Figure(match["other_target"], match["other_metric"], match["other_load"])
    for name in {figure.target} | ({against.target} if against else set()):
        if name not in scenario.names:
            raise ValueError(f"{text!r} is about {name!r}, but the test measures only {', '.join(scenario.names)}")
    if match["baseline"] and baseline is None:
        raise ValueError(f"{text!r} needs saved results with which to compare: give --baseline FILE.json")
    if match["value"]:
        factor = _in_unit(text, figure.metric, float(match["value"]), match["unit"] or "")
        _require_possible(text, figure.metric, match["operator"], factor)
    else:
        factor = float(match["factor"] or "1")
    gate = Gate(text.strip(), figure, match["operator"], factor, against)
    _require_judgeable(gate, scenario, accuracy, baseline)
    return gate


def _in_unit(text: str, metric: str, value: float, unit: str) -> float:
    """Return the value in seconds, as a share or as a plain number. Raises ValueError if the unit does not apply."""
    if metric in (*RATE_METRICS, "errors"):
        if unit:
            raise ValueError(f"{text!r}: {metric} is a plain number, without {unit!r}")
        return value
    if metric in SHARE_METRICS:
        # A plain 1 is refused too, because the user may mean 1 %.
        if unit not in ("", "%") or (not unit and value >= 1):
            raise ValueError(f"{text!r}: {metric} is a share: write {value:g} %, or a number below 1")
        return value / 100 if unit else value
    if unit not in DURATION_UNITS:
        raise ValueError(f"{text!r}: {metric} is a duration: give its unit, for example {value:g}ms")
    return value * DURATION_UNITS[unit]


def _require_possible(text: str, metric: str, comparison: str, bound: float) -> None:
    """Raise ValueError for a condition that no figure can meet, because the gate could never fail."""
    if comparison == "<" and bound == 0:
        raise ValueError(f"{text!r} can never hold: {metric} is never below 0")
    if metric in SHARE_METRICS and (bound > 1 or (comparison == ">" and bound == 1)):
        raise ValueError(f"{text!r} can never decide anything: {metric} is a share, which is at most 100 %")


def _require_judgeable(gate: Gate, scenario: Scenario, accuracy: bool, baseline: SavedResults | None) -> None:
    """Raise ValueError for a condition that needs a figure that the test does not measure or that the baseline
    lacks."""
    for figure in (gate.figure, gate.against):
        if figure is None or figure.saved:
            continue
        if figure.metric == "accuracy" and not accuracy:
            raise ValueError(f"{gate.text!r} needs the accuracy: add --accuracy, and labelled --samples")
        if figure.metric == "peak" and not scenario.find_peak:
            raise ValueError(f"{gate.text!r} needs a peak search: add --find-peak and --target-latency")
        may_run = scenario.derives_rate or any(map(figure.is_under, scenario.planned_loads))
        if figure.load is not None and not may_run:
            planned = ", ".join(map(str, scenario.planned_loads))
            raise ValueError(
                f"{gate.text!r}: no run has the load {figure.load!r}, only {planned}. Add the load to --concurrency or "
                "--rate"
            )
    if gate.needs_common_load and not scenario.planned_loads:
        raise ValueError(f"{gate.text!r}: --find-peak chooses its own rates. Leave out --rate, or compare the peak")
    other = gate.against
    if gate.figure.metric in TEST_METRICS and other and not (other.load or other.metric in TEST_METRICS):
        raise ValueError(f"{gate.text!r}: give the second figure a load: {other.target}[LOAD].{other.metric}")
    if other and other.saved and baseline is not None:
        values, per_test = _values(other, baseline), other.metric in TEST_METRICS
        for load in (None,) if per_test else filter(gate.figure.is_under, scenario.planned_loads):
            if math.isnan(values.get(load, math.nan)):
                at = "" if load is None else f" at {load}"
                raise ValueError(f"{gate.text!r}: {baseline.file} has no VALID {other.metric} of {other.target}{at}")


@dataclass(frozen=True)
class GateOutcome:
    """The result of a gate: whether the gate failed, and the reason as a sentence."""

    condition: str = stored()
    failed: bool = stored()
    sentence: str = stored()


def judge(gate: Gate, results: Results, baseline: SavedResults | None = None) -> GateOutcome:
    """Decide whether a gate failed. A gate fails if its condition holds under a load, or cannot be judged."""
    measured, other, metric = SavedResults.of(results), gate.against, gate.figure.metric
    others: dict[Load | None, float] = {}
    if other is not None:
        others = _values(other, baseline if baseline is not None and other.saved else measured)
    common = other is not None and (other.load is not None or other.metric in TEST_METRICS)
    sentences = []
    left_out = ""
    for load, value in _values(gate.figure, measured).items():
        if gate.needs_common_load and load not in results.scenario.planned_loads and load not in others:
            left_out = f"; {load} is left out, because each test chose this rate automatically"
            continue
        bound = gate.factor
        if other is not None:
            bound *= next(iter(others.values()), math.nan) if common else others.get(load, math.nan)
        where = f" at {load}" if load is not None else ""
        shown = f"{gate.figure.target}'s {metric}{where} is {_show(metric, value)}"
        if math.isnan(value) or math.isnan(bound):
            missing = shown if math.isnan(value) else f"there is no VALID figure to compare with{where}"
            return GateOutcome(gate.text, True, f"{gate.text} cannot be judged: {missing}")
        sentence = f"{shown}, the limit is {_show(metric, bound)}"
        if OPERATORS[gate.operator](value, bound):
            return GateOutcome(gate.text, True, f"{gate.text}: {sentence}")
        sentences.append(sentence)
    if not sentences:
        return GateOutcome(
            gate.text, True, f"{gate.text} cannot be judged: {gate.figure.target} has no run to which it applies"
        )
    return GateOutcome(gate.text, False, f"not {gate.text}: {'; '.join(sentences)}{left_out}")


def _values(figure: Figure, results: SavedResults) -> dict[Load | None, float]:
    """Return a figure's value by load. A figure of the whole test has the load None.

    A missing value is NaN. The value of a baseline's INVALID run is NaN too, because such a baseline could hide a
    regression.
    """
    if figure.metric in TEST_METRICS:
        values = results.accuracies if figure.metric == "accuracy" else results.peaks
        return {None: values.get(figure.target, math.nan)}
    return {
        run.load: math.nan if figure.saved and not run.valid else _run_value(run, figure.metric)
        for run in results.runs
        if run.target == figure.target and figure.is_under(run.load)
    }


def _run_value(run: Run, metric: str) -> float:
    total = run.total
    values: dict[str, float] = {
        "throughput": run.throughput,
        "samples_per_second": run.samples_per_second,
        "errors": total.failed,
        "error_rate": total.failed / total.queries if total.queries else math.nan,
        "max": total.latency.maximum,
    }
    return values[metric] if metric in values else total.latency.percentile(float(metric[1:]))


def _show(metric: str, value: float) -> str:
    if metric in SHARE_METRICS:
        return f"{value:.2%}" if not math.isnan(value) else units.NONE
    if metric in RATE_METRICS:
        return f"{units.three_digits(value)}/s"
    return f"{round(value):,}" if metric == "errors" and not math.isnan(value) else units.duration(value)
