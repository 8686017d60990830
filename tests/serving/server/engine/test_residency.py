"""If memory is too small for all models, each is loaded at its first call, and the least recently used one is
evicted."""

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.transport.native import NativeCall
from tests.kit.kinds import message_of
from tests.kit.live import request, status_of
from tests.kit.over_http import live_server
from tests.kit.repository import Repository, samples
from tests.kit.waiting import until

NOT_FOUND, EXHAUSTED, LATE = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def grow(repository: Repository, *names: str, kib: int = 900, version: int = 1) -> None:
    """Add a file of ``kib`` KiB to this version of each model, after publishing the version if it is missing."""
    for name in names:
        folder = repository.folder / name / str(version)
        if not folder.exists():
            repository.publish(name, version)
        with (folder / "weights").open("wb") as file:
            file.truncate(kib << 10)


@pytest.fixture
def several(repository: Repository) -> Repository:
    """A repository of four models. The limit of 2 MiB suffices for two of them."""
    grow(repository, "one", "two", "three", "four")
    return repository


def test_a_model_is_loaded_at_its_first_call_and_the_longest_unused_one_gives_way(several: Repository) -> None:
    running = several.start(max_loaded_mib=2)
    assert running.served() == {}
    for name in ("one", "two"):
        assert running.answer(name) == 1
    assert running.answer("one") == 1
    assert running.answer("three") == 1
    assert running.served() == {"one": [1], "three": [1]}
    assert running.gates.loaded("two") == 0
    assert running.answer("two") == 1
    assert [running.loads(name) for name in ("one", "two")] == [(1, 0), (2, 0)]
    assert running.server.state().loads["one", "evicted"] == 1


def test_a_model_can_be_described_and_is_healthy_before_its_first_call(several: Repository) -> None:
    with live_server("native", several.folder, max_loaded_mib=2, http_port=0) as server:
        assert status_of(server.health, "one") == "SERVING"
        assert server.ready("one")
        assert server.server.state().versions == ()
        described = server.inference.ModelMetadata(pb.ModelMetadataRequest(name="one"))
        assert [each.name for each in described.inputs] == ["x"]
        assert [state.name for state in server.server.state().versions] == ["one"]


@pytest.mark.parametrize("transport", ["native", "grpc", "http"])
def test_calls_wait_for_one_load_each_under_its_own_deadline(several: Repository, transport: str) -> None:
    with live_server(transport, several.folder, max_loaded_mib=2) as server, server.gates.held_load("one") as load:
        calls = [server.begin(request("one", **samples([0]))) for _ in range(8)]
        load.wait()
        hurried = server.begin(request("one", **samples([0])), timeout=0.2)
        assert hurried.exception().code() == LATE
        cancelled = server.begin(request("one", **samples([0])))
        cancelled.cancel()
        load.release()
        for call in calls:
            assert call.result().outputs
        assert server.server.state().loads == {("one", "ok"): 1}


def test_a_call_is_refused_if_too_many_calls_wait_for_the_load(several: Repository) -> None:
    limits: Any = {"max_loaded_mib": 2, "max_queue_size": 2, "max_batch_size": 2}
    with live_server("native", several.folder, **limits) as server, server.gates.held_load("one") as load:
        calls = [server.begin(request("one", **samples([0]))) for _ in range(3)]
        load.wait()
        until(lambda: any(call.done() for call in calls))
        (refused,) = [call for call in calls if call.done()]
        assert refused.exception().code() == EXHAUSTED
        assert "2 requests wait for 'one' to be loaded" in refused.exception().details()
        load.release()
        for call in calls:
            assert call is refused or call.result().outputs


@pytest.mark.parametrize("transport", ["native", "grpc", "http"])
def test_a_call_whose_caller_leaves_during_the_load_ends_at_once(several: Repository, transport: str) -> None:
    with live_server(transport, several.folder, max_loaded_mib=2) as server, server.gates.held_load("one") as load:
        call = server.begin(request("one", **samples([0])))
        load.wait()
        call.cancel()
        until(lambda: any(code == "CANCELLED" for _, _, code in server.server.state().failures))
        load.release()


def test_no_answered_call_stays_in_memory_after_the_load(several: Repository) -> None:
    with live_server("native", several.folder, max_loaded_mib=2) as server:
        with server.gates.held_load("one") as load:
            calls = [server.begin(request("one", **samples([0]))) for _ in range(4)]
            load.wait()
            calls.pop().cancel()
            load.release()
            for call in calls:
                assert call.result().outputs
        until(lambda: not [each for each in gc.get_objects() if isinstance(each, NativeCall)])


def test_a_model_that_was_only_described_counts_as_used(several: Repository) -> None:
    with live_server("native", several.folder, max_loaded_mib=2) as server:
        server.infer(request("one", **samples([0])))
        server.inference.ModelMetadata(pb.ModelMetadataRequest(name="two"))
        server.infer(request("three", **samples([0])))
        assert [state.name for state in server.server.state().versions] == ["three", "two"]


def test_a_busy_version_that_is_replaced_delays_no_load_of_another_model(several: Repository) -> None:
    running = several.start("poll", max_loaded_mib=2)
    assert running.answer("one") == 1
    with running.occupied("one"):
        several.publish("one", 2)
        running.poll()
        assert running.served() == {"one": [2]}
        assert running.answer("two") == 1


def test_versions_that_are_replaced_by_larger_ones_keep_to_the_limit(several: Repository) -> None:
    running = several.start("poll", max_loaded_mib=2)
    assert [running.answer(name) for name in ("one", "two")] == [1, 1]
    grow(several, "one", "two", kib=1100, version=2)
    running.poll()
    assert running.served() == {"two": [2]}
    assert running.answer("one") == 2


def test_a_worker_that_replaces_another_loads_what_the_others_have_not_loaded(several: Repository) -> None:
    several.route("later", "split = {three = 100}")
    running = several.start(max_loaded_mib=2, versions={"one": (1,)}, load_model=("one", "four"))
    assert running.served() == {"one": [1]}
    assert running.answer("two") == 1
    assert message_of(NOT_FOUND, running.infer, "later")
    assert message_of(NOT_FOUND, running.infer, "four")


def test_what_stays_and_what_has_no_room(several: Repository) -> None:
    grow(several, "large", kib=2100)
    several.route("both", "split = {two = 100}")
    running = several.start(max_loaded_mib=2, load_model=("one",))
    assert running.served() == {"both": [1], "one": [1], "two": [1]}
    assert running.answer("both") == 1
    assert message_of(EXHAUSTED, running.infer, "three") == (
        "'three' needs 0.9 MiB, but models that stay loaded leave only 0.2 of the 2 MiB of --max-loaded-mib"
    )
    assert message_of(EXHAUSTED, running.infer, "large")
    assert running.served() == {"both": [1], "one": [1], "two": [1]}


@pytest.mark.parametrize("member", ["nobody", "one"])
def test_a_model_that_takes_the_name_of_a_route_waits_for_its_first_call(several: Repository, member: str) -> None:
    """The route is broken if it names the unknown model ``nobody``. The model that replaces the route must work."""
    several.route("both", f"split = {{{member} = 100}}")
    running = several.start("poll", max_loaded_mib=2)
    (several.folder / "both" / "route.toml").unlink()
    grow(several, "both")
    running.poll()
    assert "both" not in running.served()
    assert running.answer("both") == 1


def test_a_file_that_cannot_be_loaded_is_reported_and_tried_again_when_it_changes(several: Repository) -> None:
    several.spoil("one", 1)
    running = several.start("poll", max_loaded_mib=2)
    for _ in range(2):
        assert "out of service" in message_of(NOT_FOUND, running.infer, "one")
    assert running.loads("one") == (0, 1)
    assert running.answer("two") == 1
    several.remove("one")
    several.publish("one")
    several.publish("five", 3)
    running.poll()
    assert (running.answer("one"), running.answer("five")) == (1, 3)
    several.remove("five")
    running.poll()
    assert message_of(NOT_FOUND, running.infer, "five")


@pytest.mark.parametrize("transport", ["native", "http"])
def test_no_call_fails_while_models_come_and_go(several: Repository, transport: str) -> None:
    names = ("one", "two", "three", "four")
    with live_server(transport, several.folder, max_loaded_mib=2) as server, ThreadPoolExecutor(8) as callers:
        calls = callers.map(server.infer, [request(random.choice(names), **samples([0])) for _ in range(400)])
        assert len(list(calls)) == 400
        assert sum(count for (_, how), count in server.server.state().loads.items() if how == "evicted") > 3


def test_a_call_of_a_model_that_is_not_loaded_is_refused_once_the_server_stops(several: Repository) -> None:
    running = several.start(max_loaded_mib=2)
    running.server.control.stop()
    assert "stopping" in message_of(grpc.StatusCode.UNAVAILABLE, running.infer, "one")
