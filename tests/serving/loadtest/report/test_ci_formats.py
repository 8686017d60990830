"""CSV, JUnit XML, and Prometheus' textfile: what other programs read."""

import csv
import io
from xml.etree import ElementTree

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.report import csv as csv_report
from hangtag.serving.loadtest.report import junit, prometheus
from tests.serving.loadtest.builders import block, full_results, results, two_models

PASSED, FAILED = GateOutcome("a.p99 > 1s", False, "not a: fine"), GateOutcome("b.p99 > 1ms", True, "b: <broken>")


def test_csv_has_a_line_for_every_run() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_report.render(full_results(failed=2)))))
    assert len(lines) == 5
    closed = lines[0]
    assert (closed["target"], closed["model"], closed["load"]) == ("fast", "fast", "closed loop")
    assert (closed["concurrency"], closed["rate"], closed["delayed"]) == ("8", "", "")
    assert float(closed["p99_seconds"]) == pytest.approx(0.00199, rel=0.01)
    assert (closed["warm_up_queries"], closed["lateness_p99_seconds"]) == ("10", "")
    assert float(closed["service_p50_seconds"]) == pytest.approx(0.0015, rel=0.01)
    assert float(lines[2]["lateness_p99_seconds"]) == pytest.approx(0.0001)
    assert float(closed["server_queue_seconds"]) == pytest.approx(0.0001)
    assert (closed["accuracy"], closed["valid"], closed["failed"]) == ("0.9", "true", "0")
    assert lines[1]["problems"] == "10 of 1,260 calls failed (10 UNAVAILABLE)"


def test_csv_leaves_missing_figures_empty() -> None:
    nothing = results(Run((block("fast", ClosedLoop(1), (), failed=1),), 1))
    (line,) = csv.DictReader(io.StringIO(csv_report.render(nothing)))
    assert (line["p99_seconds"], line["server_queue_seconds"], line["accuracy"]) == ("", "", "")


def test_junit_has_a_test_for_every_run_and_gate() -> None:
    suite = ElementTree.fromstring(junit.render(two_models(failed=1), (PASSED, FAILED)))
    assert suite.tag == "testsuite"
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert (suite.get("tests"), suite.get("failures")) == ("7", "3")
    assert list(cases) == [
        "the whole test",
        *("fast, 8 in flight", "slow, 8 in flight", "fast, 500 calls/s", "slow, 500 calls/s"),
        *("a.p99 > 1s", "b.p99 > 1ms"),
    ]
    assert cases["a.p99 > 1s"] is None
    for name, why in (("b.p99 > 1ms", "b: <broken>"), ("slow, 8 in flight", "5 of 1,255 calls failed (5 UNAVAILABLE)")):
        failure = cases[name]
        assert failure is not None
        assert failure.text == why


def test_prometheus_reads_every_figure() -> None:
    text = prometheus.render(full_results(), (PASSED, FAILED))
    samples = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["hangtag_loadtest_throughput", "8 in flight", "fast"] == pytest.approx(1000)
    assert samples["hangtag_loadtest_latency_seconds", "8 in flight", "0.99", "slow"] == pytest.approx(0.008, rel=0.01)
    assert samples["hangtag_loadtest_queries", "8 in flight", "OK", "fast"] == 5000
    assert samples["hangtag_loadtest_valid", "8 in flight", "fast"] == 1
    assert samples["hangtag_loadtest_accuracy", "fast"] == 0.9
    assert samples["hangtag_loadtest_peak", "fast"] == 1450
    assert samples["hangtag_loadtest_gate_failed", "b.p99 > 1ms"] == 1
    assert samples["hangtag_loadtest_gate_failed", "a.p99 > 1s"] == 0
    assert samples["hangtag_loadtest_success",] == 0


def test_prometheus_has_the_success_of_the_test() -> None:
    assert "hangtag_loadtest_success 1.0" in prometheus.render(two_models(), (PASSED,))
