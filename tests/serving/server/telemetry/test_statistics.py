"""A server's statistics: histograms, the counters of each model, and the sums over processes."""

import time
from dataclasses import replace

import pytest

from hangtag.serving.server.telemetry.model_statistics import (
    SECONDS_BOUNDS,
    BatchCost,
    BatchCounters,
    BucketHistogram,
    Counters,
    Duration,
    ModelStatistics,
)
from hangtag.serving.server.telemetry.server_state import (
    LOADING,
    READY,
    UNAVAILABLE,
    RouteCounts,
    ServerState,
    ShadowCounts,
    StageCounts,
    VersionState,
)


def test_batches_count_their_requests_and_samples_by_size_and_failures_apart() -> None:
    statistics = ModelStatistics()
    empty = statistics.snapshot()
    before = time.time_ns() // 1_000_000
    statistics.record_batch([1, 2], BatchCost(10, 100, 1000, 5))
    for _ in range(2):
        statistics.record_batch([0], BatchCost(0, 7, 0, 4))
    for ns in (9, 1):
        statistics.record_failure(ns)
    counters = statistics.snapshot()
    assert (counters.inference_count, counters.execution_count) == (13, 3)
    assert before <= counters.last_inference_ms <= time.time_ns() // 1_000_000
    assert counters.success == Duration(4, 3 + 2 * 1110 + 14)
    assert counters.queue == Duration(4, 3)
    assert counters.compute_input == Duration(4, 20)
    assert counters.compute_infer == Duration(4, 200 + 14)
    assert counters.compute_output == Duration(4, 2000)
    assert counters.fail == Duration(2, 10)
    assert counters.queue_seconds.count == counters.request_seconds.count == counters.compute_seconds.count == 4
    assert counters.queue_seconds.sum == pytest.approx(3e-9)
    assert counters.request_seconds.sum == pytest.approx((3 + 2 * 1110 + 14) * 1e-9)
    assert (counters.batch_sizes.count, counters.batch_sizes.sum) == (3, 13)
    assert counters.batches == {
        5: BatchCounters(Duration(1, 10), Duration(1, 100), Duration(1, 1000)),
        4: BatchCounters(Duration(2, 0), Duration(2, 14), Duration(2, 0)),
    }
    assert empty == Counters()  # an earlier snapshot does not change


def test_the_counters_of_two_processes_add_up() -> None:
    one, another, both = ModelStatistics(), ModelStatistics(), ModelStatistics()
    for statistics in (one, both):
        statistics.record_batch([1, 2], BatchCost(10, 100, 1000, 5))
    for statistics in (another, both):
        statistics.record_batch([7], BatchCost(1, 2, 3, 1))
        statistics.record_failure(9)
    total = one.snapshot() + another.snapshot()
    assert replace(total, last_inference_ms=0) == replace(both.snapshot(), last_inference_ms=0)


def counted(calls: int) -> Counters:
    statistics = ModelStatistics()
    for _ in range(calls):
        statistics.record_batch([1], BatchCost(1, 1, 1, 2))
    return statistics.snapshot()


def failed(times: int) -> BucketHistogram:
    return BucketHistogram(SECONDS_BOUNDS, (times, *[0] * len(SECONDS_BOUNDS)), 0.5 * times)


def test_processes_add_up_by_model_and_version() -> None:
    one = ServerState(
        (VersionState("a", "1", READY, provider="CPU", instances=1, queued=2, max_queue_size=8, counters=counted(3)),),
        {("a", "1", "INTERNAL"): failed(1)},
        {("a", "ok"): 1},
        {("native", "loopback"): 1},
        shed={"a": 1, "": 2},
    )
    another = ServerState(
        (
            VersionState("a", "1", READY, provider="CPU", instances=1, queued=5, max_queue_size=8, counters=counted(4)),
            VersionState("a", "2", READY, instances=1),
        ),
        {("a", "1", "INTERNAL"): failed(2), ("", "", "NOT_FOUND"): failed(9)},
        {("a", "ok"): 2, ("b", "error"): 1},
        {("native", "loopback"): 1, ("grpc", "--transport grpc"): 1},
        shed={"a": 3, "b": 1},
    )
    both = one + another
    assert [(v.name, v.version, v.instances, v.queued) for v in both.versions] == [("a", "1", 2, 7), ("a", "2", 1, 0)]
    assert both.versions[0].max_queue_size == 16
    assert both.versions[0].counters.execution_count == 7
    assert both.failures == {("a", "1", "INTERNAL"): failed(3), ("", "", "NOT_FOUND"): failed(9)}
    assert both.loads == {("a", "ok"): 3, ("b", "error"): 1}
    assert both.transports == {("native", "loopback"): 2, ("grpc", "--transport grpc"): 1}
    assert both.shed == {"a": 4, "b": 1, "": 2}


def test_of_two_processes_the_one_that_has_loaded_a_version_says_how_and_the_worse_state_counts() -> None:
    ready = VersionState(
        "a", "1", READY, provider="CUDA", requested_provider="auto", cuda_graphs=True, io_binding_failures=2
    )
    loading, broken = VersionState("a", "1", LOADING), VersionState("a", "1", UNAVAILABLE, "no model")
    for other in (loading, broken):
        for both in (ready + other, other + ready):
            assert (both.requested_provider, both.provider, both.cuda_graphs) == ("auto", "CUDA", True)
            assert both.io_binding_failures == 2
            assert (both.state, both.reason) == (other.state, other.reason)
    assert (ready + ready).io_binding_failures == 4


def test_counters_of_a_route_are_added_though_a_process_has_not_loaded_it_yet() -> None:
    one = RouteCounts(
        {(1, "fast"): StageCounts(1, 2), (2, "slow"): StageCounts()}, ShadowCounts(1, 0, 0, 2, 2, 0.5), 1, 0.2
    )
    two = RouteCounts(
        {(1, "fast"): StageCounts(2, 4), (2, "slow"): StageCounts()}, ShadowCounts(2, 0, 0, 4, 4, 0.5), 2, 0.2
    )
    assert (one + one, RouteCounts() + one, one + RouteCounts()) == (two, one, one)


def test_a_process_that_ended_leaves_only_its_counters() -> None:
    state = VersionState(
        "a", "1", UNAVAILABLE, "no model", "CPU", instances=2, queued=7, max_queue_size=8, counters=counted(3)
    )
    done = ServerState(
        (state,), {("a", "1", "INTERNAL"): failed(1)}, transports={("native", "loopback"): 1}
    ).counts_only()
    assert done.transports == {}
    (left,) = done.versions
    assert (left.instances, left.queued, left.max_queue_size, left.reason) == (0, 0, 0, "")
    assert left.counters == state.counters


def test_counts_of_versions_that_no_longer_serve_are_left_out() -> None:
    state = ServerState(
        (VersionState("a", "1", READY), VersionState("a", "2", READY)),
        {("a", "1", "INTERNAL"): failed(1), ("a", "2", "INTERNAL"): failed(2), ("", "", "NOT_FOUND"): failed(3)},
        {("a", "ok"): 2},
    )
    assert state.restricted_to({("a", "2")}) == ServerState(
        (VersionState("a", "2", READY),),
        {("a", "2", "INTERNAL"): failed(2), ("", "", "NOT_FOUND"): failed(3)},
        {("a", "ok"): 2},
    )
