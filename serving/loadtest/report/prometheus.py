"""Renders results for Prometheus' textfile collector, to follow figures over many load tests."""

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.measuring.results import Results

PREFIX = "hangtag_loadtest_"
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


def render(results: Results, outcomes: Sequence[GateOutcome] = ()) -> str:
    """The exposition text. Missing figures are left out."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=registry)

    run_labels = ("target", "load")
    latency = gauge("latency_seconds", "Latency from the planned send time.", *run_labels, "quantile")
    throughput = gauge("throughput", "Answered calls a second.", *run_labels)
    queries = gauge("queries", "Calls that were sent and ended.", *run_labels, "status")
    valid = gauge("valid", "1 where the run's numbers mean what they say.", *run_labels)
    for run in results.runs:
        labels = (run.target, str(run.load))
        throughput.labels(*labels).set(run.throughput)
        valid.labels(*labels).set(run.valid)
        for status, count in run.total.statuses.items():
            queries.labels(*labels, status).set(count)
        for quantile in QUANTILES:
            value = run.total.latency.percentile(quantile * 100)
            if not math.isnan(value):
                latency.labels(*labels, f"{quantile:g}").set(value)
    accuracy = gauge("accuracy", "Share of the samples that were classified rightly.", "target")
    for name, measured in results.accuracies.items():
        accuracy.labels(name).set(measured.share)
    peak = gauge("peak", "Highest rate (calls a second) that keeps the target latency.", "target")
    for target_peak in results.peaks:
        if target_peak.rate is not None:
            peak.labels(target_peak.target).set(target_peak.rate)
    failed = gauge("gate_failed", "1 where the condition of a gate holds.", "condition")
    for outcome in outcomes:
        failed.labels(outcome.condition).set(outcome.failed)
    gauge("success", "1 where the whole test is valid and no gate failed.").set(
        results.valid and not any(outcome.failed for outcome in outcomes)
    )
    return generate_latest(registry).decode()
