from dataclasses import replace

import pytest

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.executors.recorder import Recorder
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import OpenLoop

LOAD = OpenLoop(100.0)
LIMITS = Limits(min_duration=1.0, min_query_count=1, max_duration=10.0, max_query_count=1000)


def recorder(window_start: float) -> Recorder:
    return Recorder(window_start, LIMITS)


def test_latency_counts_from_the_planned_and_service_time_from_the_actual_send() -> None:
    new = recorder(0.0)
    # The generator stalled for 300 ms: the 30 queries due in that time leave in a burst, each answered in 1 ms.
    for number in range(30):
        new.record(planned=number * 0.01, sent=0.3, ended=0.301, status=OK)
    result = new.result("cnn", LOAD, 0.31)
    assert result.latency.percentile(99) == pytest.approx(0.301, rel=1e-3)
    assert result.latency.percentile(50) == pytest.approx(0.151, rel=1e-3)
    assert result.service.percentile(99) == pytest.approx(0.001, rel=1e-3)
    assert result.lateness.maximum == pytest.approx(0.3, rel=1e-3)
    assert result.delayed == 30


def test_the_warm_up_is_discarded_but_its_answers_within_the_window_count_as_throughput() -> None:
    new = recorder(1.0)
    new.record(0.5, 0.5, 0.9, OK)
    new.record(0.9, 0.9, 1.1, OK)
    new.record(1.0, 1.0, 1.2, OK)
    new.record(1.9, 1.9, 2.1, OK)  # Sent within the window, answered after it.
    result = new.result("cnn", LOAD, 2.0)
    assert result.warm_up_queries == 2
    assert result.queries == len(result.latency) == 2
    assert result.throughput == pytest.approx(2.0)


def test_failed_calls_are_counted_by_status_and_have_no_latency() -> None:
    new = recorder(0.0)
    new.record(0.1, 0.1, 0.2, OK)
    new.record(0.1, 0.1, 5.0, "DEADLINE_EXCEEDED")
    new.record(0.1, 0.1, 0.1, "UNAVAILABLE")
    assert new.queries == 3
    result = new.result("cnn", LOAD, 1.0)
    assert result.statuses == {OK: 1, "DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 1}
    assert result.failed == 2
    assert result.throughput == pytest.approx(1.0)
    assert len(result.latency) == 1


def test_folding_in_between_changes_nothing() -> None:
    def record(fold: bool) -> BlockResult:
        new = recorder(0.1)
        for number in range(100):
            new.record(number / 100, number / 100, number / 100 + 0.02, OK if number % 7 else "ABORTED")
            if fold:
                new.fold()
                assert new.queries == max(0, number - 9)
        return new.result("cnn", LOAD, 0.99)

    once, often = record(fold=False), record(fold=True)
    assert once.statuses == often.statuses
    assert once.warm_up_queries == often.warm_up_queries == 10
    assert (once.latency.counts() == often.latency.counts()).all()


def test_blocks_are_combined_into_a_run() -> None:
    first, second = recorder(0.0), recorder(0.0)
    first.record(0.1, 0.1, 0.2, OK)
    first.details["ABORTED"] = "first"
    second.record(0.1, 0.2, 0.4, OK)
    second.record(0.1, 0.1, 0.4, "ABORTED")
    second.details["ABORTED"] = "second"
    merged = BlockResult.from_blocks([first.result("cnn", LOAD, 1.0), second.result("cnn", LOAD, 3.0, stopped=True)])
    assert merged.window == pytest.approx(4.0)
    assert merged.throughput == pytest.approx(0.5)
    assert merged.statuses == {OK: 2, "ABORTED": 1}
    assert merged.details == {"ABORTED": "first"}
    assert len(merged.latency) == len(merged.service) == 2
    assert len(merged.lateness) == 3
    assert merged.delayed == 1
    assert not merged.finished


def test_a_block_that_never_left_its_warm_up_has_no_throughput() -> None:
    new = recorder(5.0)
    new.record(1.0, 1.0, 2.0, OK)
    result = new.result("cnn", LOAD, 3.0, stopped=True)
    assert result.window == 0.0
    assert result.throughput == 0.0


def test_slices_hold_the_answers_that_arrived_in_them() -> None:
    new = recorder(1.0)
    new.record(1.0, 1.0, 1.05, OK)
    new.record(1.0, 1.0, 1.25, OK)
    new.fold()
    new.record(1.2, 1.2, 1.29, OK)
    new.record(1.2, 1.2, 1.21, "ABORTED")
    slices = new.result("cnn", LOAD, 2.0).timeline
    assert [(round(one.start, 6), len(one.latency), one.failed) for one in slices] == [(0.0, 1, 0), (0.2, 2, 1)]
    assert slices[1].latency.maximum == pytest.approx(0.25, rel=1e-3)


def test_the_processes_parts_of_a_block_are_combined() -> None:
    first, second = recorder(0.0), recorder(0.0)
    for number in range(10):
        first.record(number / 10, number / 10, number / 10 + 0.05, OK)
    second.record(0.1, 0.1, 0.15, OK)
    parts = [
        replace(first.result("cnn", LOAD, 1.0), generator_cpu=0.3, generator_busy=0.9, cpu_share=0.1),
        replace(second.result("cnn", LOAD, 1.0), generator_cpu=0.7, generator_busy=0.8, cpu_share=0.3),
    ]
    joined = BlockResult.from_processes(parts, LIMITS)
    assert joined.window == 1.0
    assert joined.queries == 11
    assert joined.throughput == pytest.approx(11.0)
    assert (joined.generator_cpu, joined.generator_busy) == (0.7, 0.9)
    assert joined.cpu_share == 0.4
    assert BlockResult.from_blocks(parts).cpu_share == 0.2
    assert joined.finished
    assert sum(len(one.latency) for one in joined.timeline) == 11
    assert [one.start for one in joined.timeline] == sorted({one.start for one in joined.timeline})
    assert not BlockResult.from_processes(parts, Limits(1.0, 12, 10.0, 1000)).finished
    assert not BlockResult.from_processes(parts, Limits(1.1, 1, 10.0, 1000)).finished


def test_answers_after_the_window_are_no_throughput() -> None:
    new = recorder(0.0)
    new.record(0.1, 0.1, 0.2, OK)
    new.record(0.9, 0.9, 1.1, OK)
    new.fold(1.0)
    assert new.result("cnn", LOAD, 1.0).throughput == 1.0
