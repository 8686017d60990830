import pytest

from serving.loadtest.recorder import OK, BlockResult, Recorder
from serving.loadtest.scenario import OpenLoop

LOAD = OpenLoop(100.0)


def test_latency_counts_from_the_planned_and_service_time_from_the_actual_send() -> None:
    recorder = Recorder(window_start=0.0)
    # The generator stood still for 300 ms: 30 queries that were due meanwhile leave in a burst, each answered in 1 ms.
    for number in range(30):
        recorder.record(planned=number * 0.01, sent=0.3, ended=0.301, status=OK)
    result = recorder.result("cnn", LOAD, window_end=0.31, finished=True)
    assert result.latency.percentile(99) == pytest.approx(0.301, rel=1e-3)
    assert result.latency.percentile(50) == pytest.approx(0.151, rel=1e-3)
    assert result.service.percentile(99) == pytest.approx(0.001, rel=1e-3)
    assert result.lateness.maximum == pytest.approx(0.3, rel=1e-3)
    assert result.delayed == 30


def test_the_warm_up_is_discarded_but_its_answers_within_the_window_count_as_throughput() -> None:
    recorder = Recorder(window_start=1.0)
    recorder.record(0.5, 0.5, 0.9, OK)
    recorder.record(0.9, 0.9, 1.1, OK)
    recorder.record(1.0, 1.0, 1.2, OK)
    recorder.record(1.9, 1.9, 2.1, OK)  # Sent within the window, answered after it.
    result = recorder.result("cnn", LOAD, window_end=2.0, finished=True)
    assert result.warm_up_queries == 2
    assert result.queries == len(result.latency) == 2
    assert result.throughput == pytest.approx(2.0)


def test_failed_calls_are_counted_by_status_and_have_no_latency() -> None:
    recorder = Recorder(window_start=0.0)
    recorder.record(0.1, 0.1, 0.2, OK)
    recorder.record(0.1, 0.1, 5.0, "DEADLINE_EXCEEDED")
    recorder.record(0.1, 0.1, 0.1, "UNAVAILABLE")
    assert recorder.queries == 3
    result = recorder.result("cnn", LOAD, window_end=1.0, finished=True)
    assert result.statuses == {OK: 1, "DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 1}
    assert result.failed == 2
    assert result.throughput == pytest.approx(1.0)
    assert len(result.latency) == 1


def test_folding_in_between_changes_nothing() -> None:
    def record(fold: bool) -> BlockResult:
        recorder = Recorder(window_start=0.1)
        for number in range(100):
            recorder.record(number / 100, number / 100, number / 100 + 0.02, OK if number % 7 else "ABORTED")
            if fold:
                recorder.fold()
                assert recorder.queries == max(0, number - 9)
        return recorder.result("cnn", LOAD, window_end=0.99, finished=True)

    once, often = record(fold=False), record(fold=True)
    assert once.statuses == often.statuses
    assert once.warm_up_queries == often.warm_up_queries == 10
    assert (once.latency.counts() == often.latency.counts()).all()


def test_blocks_merge_into_the_run_of_all_of_them() -> None:
    first, second = Recorder(0.0), Recorder(0.0)
    first.record(0.1, 0.1, 0.2, OK)
    first.details["ABORTED"] = "first"
    second.record(0.1, 0.2, 0.4, OK)
    second.record(0.1, 0.1, 0.4, "ABORTED")
    second.details["ABORTED"] = "second"
    merged = BlockResult.merged(
        [first.result("cnn", LOAD, 1.0, finished=True), second.result("cnn", LOAD, 3.0, finished=False)]
    )
    assert merged.window == pytest.approx(4.0)
    assert merged.throughput == pytest.approx(0.5)
    assert merged.statuses == {OK: 2, "ABORTED": 1}
    assert merged.details == {"ABORTED": "first"}
    assert len(merged.latency) == len(merged.service) == 2
    assert len(merged.lateness) == 3
    assert merged.delayed == 1
    assert not merged.finished


def test_a_block_that_never_left_its_warm_up_has_no_throughput() -> None:
    recorder = Recorder(window_start=5.0)
    recorder.record(1.0, 1.0, 2.0, OK)
    result = recorder.result("cnn", LOAD, window_end=3.0, finished=False)
    assert result.window == 0.0
    assert result.throughput == 0.0
