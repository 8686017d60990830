from hangtag.serving.server.telemetry.histogram import SECONDS_BOUNDS, BucketHistogram
from hangtag.serving.server.telemetry.model_statistics import Counters, ModelStatistics, Timings
from hangtag.serving.server.telemetry.server_state import LOADING, READY, UNAVAILABLE, ServerState, VersionState, total


def counted(calls: int) -> Counters:
    statistics = ModelStatistics()
    for _ in range(calls):
        statistics.record_batch([Timings(1, 1, 1, 1, 2)])
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
    both = total([one, another])
    assert [(v.name, v.version, v.instances, v.queued) for v in both.versions] == [("a", "1", 2, 7), ("a", "2", 1, 0)]
    assert both.versions[0].max_queue_size == 16
    assert both.versions[0].counters.execution_count == 7
    assert both.failures == {("a", "1", "INTERNAL"): failed(3), ("", "", "NOT_FOUND"): failed(9)}
    assert both.loads == {("a", "ok"): 3, ("b", "error"): 1}
    assert both.transports == {("native", "loopback"): 2, ("grpc", "--transport grpc"): 1}
    assert both.shed == {"a": 4, "b": 1, "": 2}
    assert total([]) == ServerState()


def test_the_provider_comes_from_the_process_that_has_loaded_the_version() -> None:
    ready = VersionState(
        "a", "1", READY, provider="CUDA", requested_provider="auto", cuda_graphs=True, io_binding_failures=2
    )
    for both in (ready + VersionState("a", "1", LOADING), VersionState("a", "1", LOADING) + ready):
        assert (both.requested_provider, both.provider, both.cuda_graphs) == ("auto", "CUDA", True)
        assert both.io_binding_failures == 2
    assert (ready + ready).io_binding_failures == 4


def test_the_worse_state_of_two_processes_counts() -> None:
    ready, broken = VersionState("a", "1", READY), VersionState("a", "1", UNAVAILABLE, "no model")
    for both in (ready + broken, broken + ready):
        assert (both.state, both.reason) == (UNAVAILABLE, "no model")
    assert (ready + VersionState("a", "1", LOADING)).state == LOADING


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
