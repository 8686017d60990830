import threading
import time
from dataclasses import replace

import pytest

from hangtag.serving.server.telemetry.histogram import SECONDS_BOUNDS
from hangtag.serving.server.telemetry.model_statistics import BatchCounters, Duration, ModelStatistics, Timings


def test_a_new_model_has_counted_nothing() -> None:
    counters = ModelStatistics().snapshot()
    assert (counters.inference_count, counters.execution_count, counters.last_inference_ms) == (0, 0, 0)
    assert counters.success == counters.fail == Duration(0, 0)
    assert counters.batches == {}


def test_a_batch_counts_its_requests_and_its_samples() -> None:
    statistics = ModelStatistics()
    before = time.time_ns() // 1_000_000
    statistics.record_batch([Timings(1, 10, 100, 1000, 5), Timings(2, 10, 100, 1000, 5)])
    counters = statistics.snapshot()
    assert (counters.inference_count, counters.execution_count) == (5, 1)
    assert before <= counters.last_inference_ms <= time.time_ns() // 1_000_000
    assert counters.success == Duration(2, 3 + 2 * 1110)
    assert counters.queue == Duration(2, 3)
    assert counters.compute_input == Duration(2, 20)
    assert counters.compute_infer == Duration(2, 200)
    assert counters.compute_output == Duration(2, 2000)
    assert counters.batches == {5: BatchCounters(Duration(1, 10), Duration(1, 100), Duration(1, 1000))}


def test_batches_are_kept_by_size_and_failures_apart() -> None:
    statistics = ModelStatistics()
    for size in (1, 4, 4):
        statistics.record_batch([Timings(0, 0, 7, 0, size)])
    statistics.record_failure(9)
    statistics.record_failure(1)
    counters = statistics.snapshot()
    assert {size: batches.compute_infer for size, batches in counters.batches.items()} == {
        1: Duration(1, 7),
        4: Duration(2, 14),
    }
    assert counters.fail == Duration(2, 10)
    assert counters.success.count == 3


def test_a_snapshot_stays_as_it_was() -> None:
    statistics = ModelStatistics()
    before = statistics.snapshot()
    statistics.record_batch([Timings(0, 0, 0, 0, 1)])
    assert before.execution_count == 0
    assert before.batches == {}


def test_threads_lose_no_count() -> None:
    statistics = ModelStatistics()

    def record() -> None:
        for _ in range(500):
            statistics.record_batch([Timings(1, 1, 1, 1, 2)])
            statistics.record_failure(1)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = statistics.snapshot()
    assert (counters.inference_count, counters.execution_count, counters.fail.count) == (4000, 2000, 2000)
    assert counters.batches[2].compute_infer == Duration(2000, 2000)


@pytest.mark.parametrize("requests", [1, 5, 100])
def test_the_histograms_hold_each_request_and_each_batch(requests: int) -> None:
    statistics = ModelStatistics()
    statistics.record_batch([Timings(number * 1_000_000, 10, 100, 1000, 128) for number in range(requests)])
    counters = statistics.snapshot()
    seconds = [number / 1000 for number in range(requests)]
    assert counters.queue_seconds.count == counters.request_seconds.count == counters.compute_seconds.count == requests
    assert counters.queue_seconds.sum == pytest.approx(sum(seconds))
    assert counters.request_seconds.sum == pytest.approx(sum(seconds) + requests * 1110e-9)
    at_most_5_ms = sum(counters.queue_seconds.counts[: SECONDS_BOUNDS.index(5e-3) + 1])
    assert at_most_5_ms == min(requests, 6)
    assert (counters.batch_sizes.count, counters.batch_sizes.sum) == (1, 128)


def test_the_counters_of_two_processes_add_up() -> None:
    one, another, both = ModelStatistics(), ModelStatistics(), ModelStatistics()
    for statistics in (one, both):
        statistics.record_batch([Timings(1, 10, 100, 1000, 5), Timings(2, 10, 100, 1000, 5)])
    for statistics in (another, both):
        statistics.record_batch([Timings(7, 1, 2, 3, 1)])
        statistics.record_failure(9)
    total = one.snapshot() + another.snapshot()
    assert replace(total, last_inference_ms=0) == replace(both.snapshot(), last_inference_ms=0)
