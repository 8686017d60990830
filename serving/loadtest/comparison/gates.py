"""Gates: the conditions of --fail-if, such as `lstm.p99 > 5ms` or `cnn.throughput < 0.95 * baseline`."""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.plan.scenario import Scenario

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
SHARE_METRICS = ("accuracy", "error_rate")
PLAIN_METRICS = ("throughput", "samples_per_second", "errors", "peak")
TEST_METRICS = ("accuracy", "peak")  # One figure of the whole test, whatever the load.
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
    """A metric of a target, under one load or, without one, under every load."""

    target: str
    metric: str
    load: str | None = None


@dataclass(frozen=True)
class Gate:
    """A condition under which the test fails: `figure` compared with `factor` times `against`."""

    text: str
    figure: Figure
    operator: str
    factor: float  # The bound itself, where there is nothing to multiply.
    against: Figure | None = None
    against_baseline: bool = False

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What the run has to measure."""
        return (self.figure,) if self.against is None else (self.figure, self.against)

    @property
    def needs_common_load(self) -> bool:
        """Whether each run is compared with one under the same load, of the baseline or of another target."""
        other = self.against
        if self.figure.load is not None or self.figure.metric in TEST_METRICS:
            return False
        if other is None:
            return self.against_baseline
        return other.load is None and other.metric not in TEST_METRICS and other.target != self.figure.target


@dataclass(frozen=True)
class GateOutcome:
    """Whether a gate failed, and why, in a sentence."""

    condition: str
    failed: bool
    sentence: str


def parse(text: str, targets: tuple[str, ...], has_baseline: bool) -> Gate:
    """Parse a condition, for example `cnn[64].p99 > 2 * lstm.p99`.

    Raises:
        ValueError: When the text is no condition, refers to a target or a baseline that is missing, has a value
            whose unit does not fit the metric, or can never hold.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a condition: {SYNTAX}")
    figure = Figure(match["target"], match["metric"], match["load"])
    against = (
        Figure(match["other_target"], match["other_metric"], match["other_load"]) if match["other_target"] else None
    )
    for name in {figure.target} | ({against.target} if against else set()):
        if name not in targets:
            raise ValueError(f"{text!r} is about {name!r}, which is not measured: {', '.join(targets)} are")
    if match["baseline"] and not has_baseline:
        raise ValueError(f"{text!r} needs the saved results to compare with: give --baseline FILE.json")
    if match["value"]:
        factor = _in_unit(text, figure.metric, float(match["value"]), match["unit"] or "")
        _require_possible(text, figure.metric, match["operator"], factor)
    else:
        factor = float(match["factor"] or "1")
    return Gate(
        text=text.strip(),
        figure=figure,
        operator=match["operator"],
        factor=factor,
        against=against,
        against_baseline=bool(match["baseline"]),
    )


def _in_unit(text: str, metric: str, value: float, unit: str) -> float:
    """The value in seconds, as a share or as a plain number. Raises ValueError for a unit that does not fit."""
    if metric in PLAIN_METRICS:
        if unit:
            raise ValueError(f"{text!r}: {metric} is a plain number, without {unit!r}")
        return value
    if metric in SHARE_METRICS:
        # A plain 1 is refused too, because its author may mean 1 %.
        if unit not in ("", "%") or (not unit and value >= 1):
            raise ValueError(f"{text!r}: {metric} is a share: write {value:g} %, or a number below 1")
        return value / 100 if unit else value
    if unit not in DURATION_UNITS:
        raise ValueError(f"{text!r}: {metric} is a duration: give its unit, for example {value:g}ms")
    return value * DURATION_UNITS[unit]


def _require_possible(text: str, metric: str, comparison: str, bound: float) -> None:
    """Refuse a condition that no figure can meet: a gate that cannot fail protects nothing. Raises ValueError."""
    if comparison == "<" and bound == 0:
        raise ValueError(f"{text!r} can never hold: {metric} is never below 0")
    if metric in SHARE_METRICS and (bound > 1 or (comparison == ">" and bound == 1)):
        raise ValueError(f"{text!r} makes no sense: {metric} is a share, which is at most 100 %")


def require_judgeable(gate: Gate, scenario: Scenario, *, accuracy: bool, baseline: SavedResults | None) -> None:
    """Refuse, before the run, a condition that nothing in the run can judge: it would fail only after minutes.

    Args:
        gate: The condition.
        scenario: What will be measured.
        accuracy: Whether the accuracy will be measured.
        baseline: The saved results that the condition may compare with.

    Raises:
        ValueError: The message names the option that would measure what is missing.
    """
    for figure in gate.figures:
        if figure.metric == "accuracy" and not accuracy:
            raise ValueError(f"{gate.text!r}: nothing measures the accuracy: add --accuracy, and --samples with labels")
        if figure.metric == "peak" and not scenario.find_peak:
            raise ValueError(f"{gate.text!r}: nothing searches the peak: add --find-peak and --target-latency")
        if not _may_have_load(figure, scenario):
            planned = ", ".join(map(str, _planned_loads(scenario)))
            raise ValueError(
                f"{gate.text!r}: no run has the load {figure.load!r}, only {planned}: add it to --concurrency or --rate"
            )
    if gate.needs_common_load and not _planned_loads(scenario):
        raise ValueError(f"{gate.text!r}: --find-peak runs at rates of its own: leave out --rate, or compare the peak")
    other = gate.against
    if gate.figure.metric in TEST_METRICS and other and not (other.load or other.metric in TEST_METRICS):
        raise ValueError(f"{gate.text!r}: name the load of the other figure: {other.target}[LOAD].{other.metric}")
    if gate.against_baseline and baseline is not None:
        _require_in_baseline(gate, scenario, baseline)


def _require_in_baseline(gate: Gate, scenario: Scenario, baseline: SavedResults) -> None:
    target, metric = gate.figure.target, gate.figure.metric
    if metric in TEST_METRICS:
        if target not in (baseline.accuracies if metric == "accuracy" else baseline.peaks):
            raise ValueError(f"{gate.text!r}: {baseline.file} has no {metric} of {target}")
        return
    for load in _planned_loads(scenario):
        if gate.figure.load is None or _is_named(gate.figure.load, load):
            run = baseline.run(target, load)
            if run is None or not run.valid:
                lacks = f"no run of {target} at {load}" if run is None else f"only an INVALID run of {target} at {load}"
                raise ValueError(f"{gate.text!r}: {baseline.file} has {lacks}")


def _planned_loads(scenario: Scenario) -> tuple[Load, ...]:
    """The loads that are known before the run: not a rate that is derived from the closed loops."""
    return scenario.closed_loops + (() if scenario.derives_rate else scenario.open_loops(math.inf))


def _may_have_load(figure: Figure, scenario: Scenario) -> bool:
    if figure.load is None or scenario.derives_rate:
        return True
    return any(_is_named(figure.load, load) for load in _planned_loads(scenario))


def _is_named(name: str, load: Load) -> bool:
    return name.strip() in (str(load), str(load).split(" ")[0])


def judge(gate: Gate, results: Results, baseline: SavedResults | None = None) -> GateOutcome:
    """Decide whether a gate failed: where its condition holds under any load, or cannot be judged.

    A condition that cannot be judged fails, because it would protect nothing.
    """
    sentences = []
    left_out = ""
    for load in _loads(gate.figure, results):
        if load is not None and _leaves_out(gate, load, results, baseline):
            left_out = f"; {load} is left out, a rate that each test finds for itself"
            continue
        value = _value(gate.figure, results, load)
        bound = gate.factor * _multiplicand(gate, results, baseline, load)
        where = f" at {load}" if load is not None else ""
        shown = f"{gate.figure.target}'s {gate.figure.metric}{where} is {_show(gate.figure.metric, value)}"
        if math.isnan(value) or math.isnan(bound):
            missing = shown if math.isnan(value) else f"there is nothing VALID to compare it with{where}"
            return GateOutcome(gate.text, True, f"{gate.text} cannot be judged: {missing}")
        sentence = f"{shown}, the bound {_show(gate.figure.metric, bound)}"
        if OPERATORS[gate.operator](value, bound):
            return GateOutcome(gate.text, True, f"{gate.text}: {sentence}")
        sentences.append(sentence)
    if not sentences:
        return GateOutcome(gate.text, True, f"{gate.text} cannot be judged: {gate.figure.target} has no such run")
    return GateOutcome(gate.text, False, f"not {gate.text}: {'; '.join(sentences)}{left_out}")


def _leaves_out(gate: Gate, load: Load, results: Results, baseline: SavedResults | None) -> bool:
    """Whether the comparison leaves out this load: a rate that the test found, at which the other side did not run."""
    if not gate.needs_common_load or load in _planned_loads(results.scenario):
        return False
    if gate.against is not None:
        return all((run.target, run.load) != (gate.against.target, load) for run in results.runs)
    return baseline is None or baseline.run(gate.figure.target, load) is None


def _loads(figure: Figure, results: Results) -> Iterator[Load | None]:
    if figure.metric in TEST_METRICS:
        yield None
        return
    for run in results.runs:
        if run.target == figure.target and (figure.load is None or _is_named(figure.load, run.load)):
            yield run.load


def _multiplicand(gate: Gate, results: Results, baseline: SavedResults | None, load: Load | None) -> float:
    """The value that the gate's factor multiplies."""
    if gate.against is not None:
        if gate.against.load is not None:
            load = next(_loads(gate.against, results), None)
        return _value(gate.against, results, load)
    if not gate.against_baseline:
        return 1.0
    assert baseline is not None
    figure = gate.figure
    if load is None:
        values = baseline.accuracies if figure.metric == "accuracy" else baseline.peaks
        return values.get(figure.target, math.nan)
    run = baseline.run(figure.target, load)
    # An INVALID run is never compared: it could hide a regression.
    return math.nan if run is None or not run.valid else _run_value(run, figure.metric)


def _value(figure: Figure, results: Results, load: Load | None) -> float:
    if figure.metric == "accuracy":
        accuracy = results.accuracies.get(figure.target)
        return math.nan if accuracy is None else accuracy.share
    if figure.metric == "peak":
        peak = next((peak.rate for peak in results.peaks if peak.target == figure.target), None)
        return math.nan if peak is None else peak
    run = next((run for run in results.runs if run.target == figure.target and run.load == load), None)
    return math.nan if run is None else _run_value(run, figure.metric)


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
    if metric in ("throughput", "samples_per_second", "peak"):
        return f"{units.three_digits(value)}/s"
    return units.count(round(value)) if metric == "errors" and not math.isnan(value) else units.duration(value)
