"""The check for cached answers."""

import threading
from collections import Counter

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.generator.messages import CallSettings
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring import caching
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.statistics.intervals import Interval
from tests.serving.loadtest.builders import targets
from tests.serving.loadtest.fake_server import FakeServer, metadata

pytestmark = pytest.mark.slow


def check_caching(server: FakeServer) -> caching.CacheCheck | None:
    (target,) = targets("fast", address=server.address)
    scenario = Scenario((target,), min_duration=0.3, min_query_count=60)
    pools = caching.request_pools(target, metadata("fast"), batch_size=1, deadline=10.0)
    stop = threading.Event()
    with GeneratorProcesses(pools, CallSettings(), 2, stop) as generators:
        return caching.check(scenario, target, pools, generators, stop, lambda progress: None)


@pytest.mark.parametrize("caches", [False, True])
def test_cached_answers_are_recognised(server: FakeServer, caches: bool) -> None:
    known: set[bytes] = set()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        image = server.requests[number].raw_input_contents[0]
        if not (caches and image in known):
            known.add(image)
            threading.Event().wait(0.02)  # The time to compute an answer.

    server.behaviour = behaviour
    result = check_caching(server)
    assert result is not None
    assert (result.problem is not None) is caches, result
    counts = Counter(request.raw_input_contents[0] for request in server.requests)
    ((_, most), (_, second)) = counts.most_common(2)
    assert most > 20
    assert second == 1  # No cache, however large, can hold these.


def test_a_caching_check_without_answers_is_inconclusive(server: FakeServer) -> None:
    server.behaviour = lambda number, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not such values")
    result = check_caching(server)
    assert result is not None
    assert (
        result.problem == "whether its answers are computed is not known: random values for its inputs went unanswered"
    )


def test_a_caching_check_needs_different_samples() -> None:
    (target,) = targets("fast")
    flag = pb.ModelMetadataResponse.TensorMetadata(name="flag", datatype="BOOL", shape=[-1, 1])
    with pytest.raises(SampleError, match="only 1 different requests that fit into memory can be generated"):
        caching.request_pools(target, metadata("fast", flag), batch_size=1, deadline=10.0)


def test_a_speedup_within_the_interval_is_no_caching() -> None:
    assert caching.CacheCheck("cnn", Interval(1.5, 1.05, 2.0)).problem is None
