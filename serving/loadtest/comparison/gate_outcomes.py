"""Whether a gate failed, judged by what was measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.gates import OPERATORS, SHARE_METRICS, TEST_METRICS, Figure, Gate
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load


@dataclass(frozen=True)
class GateOutcome:
    """Whether a gate failed, and why, in a sentence."""

    condition: str
    failed: bool
    sentence: str


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
    if not gate.needs_common_load or load in results.scenario.planned_loads:
        return False
    if gate.against is not None:
        return all((run.target, run.load) != (gate.against.target, load) for run in results.runs)
    return baseline is None or baseline.run(gate.figure.target, load) is None


def _loads(figure: Figure, results: Results) -> Iterator[Load | None]:
    if figure.metric in TEST_METRICS:
        yield None
        return
    for run in results.runs:
        if run.target == figure.target and figure.is_under(run.load):
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
