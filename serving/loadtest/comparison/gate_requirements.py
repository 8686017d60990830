"""What a gate needs of a load test, checked before anything is measured."""

from hangtag.serving.loadtest.comparison.gates import TEST_METRICS, Gate
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.plan.scenario import Scenario


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
        may_run = scenario.derives_rate or any(map(figure.is_under, scenario.planned_loads))
        if figure.load is not None and not may_run:
            planned = ", ".join(map(str, scenario.planned_loads))
            raise ValueError(
                f"{gate.text!r}: no run has the load {figure.load!r}, only {planned}: add it to --concurrency or --rate"
            )
    if gate.needs_common_load and not scenario.planned_loads:
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
    for load in scenario.planned_loads:
        if gate.figure.is_under(load):
            run = baseline.run(target, load)
            if run is None or not run.valid:
                lacks = f"no run of {target} at {load}" if run is None else f"only an INVALID run of {target} at {load}"
                raise ValueError(f"{gate.text!r}: {baseline.file} has {lacks}")
