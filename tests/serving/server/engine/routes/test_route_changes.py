"""Changes of routes' files, members and shadows take effect by polling, or by calls to load or unload."""

import grpc
import pytest
import structlog.testing

from hangtag import ClientError
from hangtag.serving.server.telemetry.server_state import StageCounts
from tests.kit import onnx_models
from tests.kit.kinds import message_of
from tests.kit.repository import Repository, Running

SPLIT = "split = {one = 50, two = 50}"
ONE = "split = {one = 100}"
SHADOWED = ONE + '\nshadow = {model = "two", share = 1}'
MODELS = {"one": [1], "two": [1]}
BOTH = {"both": [1], **MODELS}


def weights(running: Running) -> str:
    return running.client.parameters("both")["route_weights"]


def refused(running: Running, name: str = "both", *, unload: bool = False) -> str:
    """Require that a call to load (or unload) the route fails, and return the error message."""
    if unload:
        return message_of(grpc.StatusCode.NOT_FOUND, running.client.unload_model, name)
    return message_of(grpc.StatusCode.FAILED_PRECONDITION, running.client.load_model, name)


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_routes_and_routes_of_routes_serve_whatever_their_names_order(repository: Repository, mode: str) -> None:
    repository.route("a", "split = {z = 100}")
    repository.route("z", ONE)
    running = repository.start(mode)
    assert running.served() == {"a": [1], "z": [1], **MODELS}
    assert (running.answer("a"), running.answer("z")) == (1, 1)


def test_a_route_follows_its_file_where_that_is_valid_and_goes_with_it(repository: Repository) -> None:
    repository.publish("index", model=onnx_models.gather())
    repository.route("both", SPLIT)
    running = repository.start("poll")
    repository.route("both", "split = {one = 10, two = 90}")
    running.poll()
    assert (weights(running), running.loads("both")) == ("10, 90", (2, 0))
    for number, (text, reason) in enumerate(
        {
            "split = {one = 10}": "whose shares are above 0 and add up to 100",
            "split = {one = 50, tow = 50}": "its member tow does not serve",
            "split = {one = 50, both = 50}": "a route must not lead back to itself: both -> both",
            "split = {one = 50, index = 50}": "one and index differ in their inputs",
            ONE + '\nshadow = {model = "tow", share = 1}': "its shadow tow does not serve",
        }.items(),
        start=1,
    ):
        repository.route("both", text)
        (line,) = running.poll(2)
        assert (line["model"], reason in line["reason"]) == ("both", True)
        assert (weights(running), running.loads("both")) == ("10, 90", (2, number))
        assert running.answer("both") == 1
    repository.route("both", "split = {two = 100}")
    running.poll()
    assert weights(running) == "100"
    repository.remove("both")
    running.poll()
    assert running.served() == {"index": [1], **MODELS}


def test_a_route_goes_with_a_member_that_goes_or_does_not_fit_any_more_and_comes_back_with_it(
    repository: Repository,
) -> None:
    repository.route("both", SPLIT)
    running = repository.start("poll")
    repository.remove("two")
    running.poll()
    assert running.served() == {"one": [1]}
    assert "its member two does not serve" in running.reason("both")
    repository.publish("two")
    running.poll()
    assert running.served() == BOTH
    repository.publish("two", 2, onnx_models.gather())
    running.poll()
    assert "one and two differ in their inputs" in running.reason("both")


def test_a_new_version_of_a_member_answers_and_the_routes_counters_go_on(repository: Repository) -> None:
    repository.route("both", ONE)
    running = repository.start("poll")
    for version in (1, 2, 3):
        if version > 1:
            repository.publish("one", version)
            running.poll()
        assert running.answer("both") == version
    state = running.state("both")
    assert (state.counters.success.count, state.route.stages) == (3, {(1, "one"): StageCounts(3, 3)})
    repository.remove("one")
    running.poll()
    with pytest.raises(ClientError, match="'both' is out of service: its member one does not serve"):
        running.infer("both")


def test_a_member_may_be_renamed_together_with_the_routes_file(repository: Repository) -> None:
    repository.publish("one", 2)
    repository.route("both", ONE)
    running = repository.start("poll")
    repository.route("both", "split = {three = 100}")
    (repository.folder / "one").rename(repository.folder / "three")
    assert [line for line in running.poll() if line["log_level"] == "warning"] == []  # the route served all the time
    assert (running.answer("both"), running.served()) == (2, {"both": [1], "three": [2], "two": [1]})


@pytest.mark.parametrize("inner", ["inner", "0"])  # the inner route's name sorts last, or first
@pytest.mark.parametrize("text", ["split = {around = 100}", f'{ONE}\nshadow = {{model = "around", share = 1}}'])
def test_a_file_that_closes_a_circle_takes_no_other_route_out(repository: Repository, text: str, inner: str) -> None:
    repository.route(inner, ONE)
    repository.route("around", f"split = {{{inner} = 100}}")
    for name in ("a", "z"):
        repository.route(name, "split = {around = 100}")
    running = repository.start("poll")
    served = running.served()
    repository.route(inner, text)
    assert "a route must not lead back to itself" in str(running.poll())
    assert running.served() == served
    assert [running.answer(name) for name in ("a", "around", inner, "z")] == [1] * 4


def test_a_route_goes_on_without_a_shadow_that_goes_does_not_fit_or_cannot_be_loaded(repository: Repository) -> None:
    repository.route("both", SHADOWED)
    repository.route("typo", SHADOWED.replace("two", "tow"))
    running = repository.start("poll")
    assert "its shadow tow does not serve" in running.reason("typo")
    repository.publish("two", 2, onnx_models.gather())
    for gone in (False, True):
        if gone:
            repository.remove("two")
        (line,) = [line for line in running.poll(2) if line["event"] == "route serves, but not as its file says"]
        assert "both serves without its shadow" in line["reason"]
        assert running.answer("both") == 1
    repository.spoil("two", 3)
    again = repository.start("poll")
    assert (again.served(), again.loads("both")) == ({"both": [1], "one": [1]}, (1, 1))
    repository.publish("two", 4)
    again.poll()
    assert (again.served(), again.loads("both")) == ({"both": [1], "one": [1], "two": [4]}, (2, 1))


def test_routes_are_loaded_and_unloaded_by_call_and_follow_their_files_only_then(repository: Repository) -> None:
    repository.route("both", SPLIT)
    running = repository.start("explicit", load_model=("one",))
    load, unload = running.client.load_model, running.client.unload_model
    for attempt in (1, 2):
        assert "its member two does not serve" in refused(running)
        assert running.loads("both") == (0, attempt)
    load("two")
    load("both")
    assert running.served() == BOTH
    unload("two")
    assert running.served() == {"one": [1]}
    repository.route("both", "split = {one = 10, two = 90}")
    load("two")
    assert (running.served(), weights(running)) == (BOTH, "50, 50")
    load("both")
    assert weights(running) == "10, 90"
    repository.route("both", "split = {one = 10}")
    assert "whose shares are above 0 and add up to 100" in refused(running)
    assert weights(running) == "10, 90"
    unload("both")
    assert (running.served(), ("both", "1") in running.server.control.published()) == (MODELS, True)
    assert "nothing to unload" in refused(running, unload=True)
    with pytest.raises(ClientError, match="it has: both, one, two"):
        load("three")


def test_a_route_is_loaded_by_call_though_its_shadow_does_not_serve(repository: Repository) -> None:
    repository.route("both", SHADOWED)
    running = repository.start("explicit", load_model=("one",))
    with structlog.testing.capture_logs() as log:
        running.client.load_model("both")
        running.client.load_model("both")
    (reason,) = [line["reason"] for line in log if line["event"] == "route serves, but not as its file says"]
    assert "route both serves without its shadow: its shadow two does not serve" in reason
    assert running.answer("both") == 1
    running.client.load_model("two")
    running.infer("both")
    running.client.unload_model("two")
    repository.route("both", SHADOWED.replace("two", "tow"))
    assert "its shadow tow does not serve" in refused(running)
    assert running.client.parameters("both")["route_shadow"] == "two 1"


@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_a_name_may_become_a_models_and_a_routes_again_and_a_route_whose_folder_is_gone_goes(
    repository: Repository, mode: str
) -> None:
    file = repository.route("both", SPLIT)
    running = repository.start(mode, load_model=("*",) if mode == "explicit" else ())

    def update() -> None:
        if mode == "poll":
            running.poll()
        else:
            running.client.load_model("both")

    file.unlink()
    repository.publish("both", 5)
    update()
    assert (running.answer("both"), running.served()) == (5, {"both": [5], **MODELS})
    repository.route("both", ONE)
    repository.remove("both", 5)
    update()
    assert (running.answer("both"), running.infer("both").answered_by) == (1, ("one",))
    repository.remove("both")
    if mode == "poll":
        running.poll()
    else:
        running.client.unload_model("both")
        running.client.load_model("one")
    assert running.served() == MODELS


@pytest.mark.parametrize("named", [("both", "one"), ("*",)])
def test_a_route_that_was_named_serves_once_its_members_do_unless_it_was_unloaded(
    repository: Repository, named: tuple[str, ...]
) -> None:
    repository.route("both", SPLIT)
    running = repository.start("explicit", load_model=named)
    if named == ("*",):
        running.client.unload_model("two")
    assert running.served() == {"one": [1]}
    assert "its member two does not serve" in running.reason("both")
    running.client.load_model("two")
    assert running.served() == BOTH
    running.client.unload_model("two")
    running.client.unload_model("both")
    running.client.load_model("two")
    assert running.served() == MODELS
    assert "nothing to unload" in refused(running, unload=True)


def test_a_route_that_is_unloaded_takes_those_that_need_it_out_until_it_is_loaded_again(repository: Repository) -> None:
    repository.route("inner", ONE)
    repository.route("outer", "split = {inner = 100}")
    running = repository.start("explicit", load_model=("one", "inner", "outer"))
    assert running.answer("outer") == 1
    running.client.unload_model("inner")
    assert running.served() == {"one": [1]}
    assert "its member inner does not serve. The versions of inner in the repository: 1" in running.reason("outer")
    running.client.load_model("inner")
    assert running.answer("outer") == 1
