"""Clients load and unload models by calls. tests/serving/server/transport tests this over every transport."""

from typing import Any

import grpc
import pytest
import structlog.testing

from tests.kit import unbatchable_models
from tests.kit.gate import Array
from tests.kit.kinds import message_of
from tests.kit.repository import Repository, samples
from tests.kit.waiting import until

NOT_FOUND, NOT_LOADED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION


def test_a_broken_version_is_reported_until_its_model_is_unloaded(repository: Repository) -> None:
    running = repository.start("explicit", load_model=("one",))
    repository.spoil("one", 2)
    problem = message_of(NOT_LOADED, running.client.load_model, "one")
    assert running.index() == [("one", 1, "READY"), ("one", 2, "UNAVAILABLE")]
    assert running.server.state().versions[1].reason in problem
    running.client.unload_model("one")
    assert running.index() == []
    assert "nothing to unload" in message_of(NOT_FOUND, running.client.unload_model, "one")
    for name in ("nobody", ""):
        assert message_of(NOT_FOUND, running.client.load_model, name)
        assert running.loads(name) == (0, 0)


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_a_model_that_never_served_is_reported_until_a_call_finds_nothing_of_it(
    repository: Repository, call: str
) -> None:
    running = repository.start("explicit")
    repository.spoil("broken", 1)
    assert message_of(NOT_LOADED, running.client.load_model, "broken")
    assert running.index() == [("broken", 1, "UNAVAILABLE")]
    repository.remove("broken", 1)
    assert message_of(NOT_FOUND, getattr(running.client, call), "broken")
    assert running.index() == []


@pytest.mark.parametrize("options", [{"max_batch_size": 8}, {"model_max_batch_size": (("one", 8),)}])
def test_a_new_version_is_warmed_up_before_it_takes_requests(repository: Repository, options: dict[str, Any]) -> None:
    running = repository.start("explicit", load_model=("one",), **options)
    meanwhile: set[tuple[int, int]] = set()

    def noting(x: Array) -> Array:
        (served,) = running.served()["one"]
        meanwhile.add((served, len(x)))
        return x

    repository.publish("one", 2)
    running.gates.play(one=noting)
    running.client.load_model("one")
    running.gates.play()
    assert {served for served, _ in meanwhile} == {1}
    assert {1, 8} <= {size for _, size in meanwhile}  # a single request, and the largest batch
    assert running.answer("one") == 2


def test_callers_that_load_a_model_at_once_share_its_next_load_and_its_outcome(repository: Repository) -> None:
    def call() -> None:
        running.client.load_model("one")

    running = repository.start("explicit")
    with running.gates.held_load("one") as load:
        loads = [running.in_thread(call)]
        load.wait()
        loads += [running.in_thread(call) for _ in range(20)]
        running.client.models()
    for each in loads:
        each.result()
    assert running.loads("one")[0] < 10
    repository.spoil("one", 2)
    for each in [running.in_thread(call) for _ in range(20)]:
        assert "one/2/model.onnx" in str(each.exception())
    running.client.load_model("two")
    assert running.served() == {"one": [1], "two": [1]}


def test_a_model_that_a_route_has_called_leaves_the_memory_when_it_is_unloaded(repository: Repository) -> None:
    repository.route("both", 'cascade = ["one", "two"]\naccept = {output = "y", at_least = 1}')
    running = repository.start("explicit", load_model=("one", "two", "both"))
    assert running.infer("both", [-5]).answered_by == ("two",)
    running.client.unload_model("one")
    until(lambda: running.gates.loaded("one") == 0)


def test_failures_of_a_version_are_forgotten_when_another_takes_its_place(repository: Repository) -> None:
    running = repository.start("explicit", load_model=("one",))
    for version, code in (("1", grpc.StatusCode.INVALID_ARGUMENT), ("9", NOT_FOUND)):
        assert message_of(code, running.client.infer, f"one@{version}", {"wrong": samples([0])["x"]})
    assert set(running.server.state().failures) == {("one", "1", "INVALID_ARGUMENT"), ("one", "", "NOT_FOUND")}
    repository.publish("one", 2)
    running.client.load_model("one")
    assert set(running.server.state().failures) == {("one", "", "NOT_FOUND")}


def test_an_error_inside_the_server_holds_up_one_model_and_is_logged_once(repository: Repository) -> None:
    def fail(runtime: Any) -> None:
        if "one" in runtime.path.parts:
            raise RuntimeError("a bug")

    with structlog.testing.capture_logs() as log:
        running = repository.start("poll", on_load=fail)
    (line,) = [line for line in log + running.poll() if line["log_level"] == "error"]
    assert (line["model"], line["version"], line["exc_info"]) == ("one", 1, True)
    assert running.served() == {"two": [1]}
    assert "one/1/model.onnx" in running.reason("one")
    assert (running.loads("one"), running.loads("two")) == ((0, 1), (1, 0))
    explicit = repository.start("explicit", on_load=fail)
    assert message_of(grpc.StatusCode.INTERNAL, explicit.client.load_model, "one")


def test_the_log_says_once_why_requests_are_not_joined_unless_the_operator_has_decided(repository: Repository) -> None:
    repository.publish("softmax", model=unbatchable_models.softmax())
    warning = "--model-max-batch-size softmax=64"
    decided: dict[str, Any] = {"model_max_batch_size": (("softmax", 8),)}
    for options, limit, warnings in (({}, 0, [warning]), (decided, 8, [])):
        with structlog.testing.capture_logs() as log:
            repository.start(**options)
        loaded = {line["model"]: line for line in log if line["event"] == "model loaded"}
        limits = {name: line["max_batch_size"] for name, line in loaded.items()}
        assert limits == {"softmax": limit, "one": 64, "two": 64}
        lines = [line for line in log if line["log_level"] == "warning"]
        assert [line["to_join_them_all_the_same"] for line in lines] == warnings
        if lines:
            assert "'y' of the same input differs" in lines[0]["reason"] == loaded["softmax"]["unbatched_because"]
