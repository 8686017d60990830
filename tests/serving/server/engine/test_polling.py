"""With polling, the server follows its repository, and continues to serve if the repository is damaged."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import pytest

from hangtag import ClientError
from hangtag.errors import UserError
from hangtag.serving.server.errors import ControlError
from tests.kit import onnx_file, onnx_models
from tests.kit.kinds import message_of
from tests.kit.repository import Repository

SPLIT = "split = {one = 50, two = 50}"
BOTH = [("one", 1, "READY"), ("two", 1, "READY")]
NOT_LOADED = "model not loaded"
_VERSION_3 = 0x20080522
_OVER_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def without_privileges() -> Iterator[None]:
    """Inside the block, the permissions of folders apply even to root, in this thread and in threads that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    capabilities = (ctypes.c_uint32 * 6)()  # three masks (effective, permitted, inheritable), then their higher 32 bits
    assert libc.capget(header, capabilities) == 0
    effective = capabilities[0]
    try:
        capabilities[0] = effective & ~_OVER_FILES
        assert libc.capset(header, capabilities) == 0
        yield
    finally:
        capabilities[0] = effective
        assert libc.capset(header, capabilities) == 0


def test_new_versions_serve_removed_ones_end_and_others_are_not_loaded_again(repository: Repository) -> None:
    running = repository.start("poll")
    repository.publish("one", 2)
    repository.publish("three")
    running.poll()
    assert running.served() == {"one": [2], "three": [1], "two": [1]}
    assert (running.answer("one"), running.client.is_ready("three")) == (2, True)
    repository.remove("one", 2)
    repository.remove("three")
    running.poll()
    running.poll()
    assert running.served() == {"one": [1], "two": [1]}
    assert (running.answer("one"), running.client.is_ready("three")) == (1, False)
    assert (running.loads("one"), running.loads("two")) == ((3, 0), (1, 0))


def test_a_models_own_settings_are_followed_once_they_are_valid(repository: Repository) -> None:
    repository.publish("three")
    settings = repository.settings("three", "no settings")
    running = repository.start("poll")
    assert str(settings) in running.reason("three")
    repository.settings("three", "max_queue_size = 300")
    running.poll()
    assert running.state("three").max_queue_size == 300
    repository.settings("three", "max_queue_size = 1")  # smaller than max_batch_size
    running.poll()
    assert [one.max_queue_size for one in running.server.state().versions if one.name == "three"] == [300]
    settings.unlink()
    running.poll()
    assert running.state("three").max_queue_size == 256


def test_a_broken_version_is_tried_once_and_leaves_the_one_that_serves_alone(repository: Repository) -> None:
    running = repository.start("poll")
    repository.spoil("one", 2)
    assert [line["event"] for line in running.poll(2)] == [NOT_LOADED]
    assert running.index() == [("one", 1, "READY"), ("one", 2, "UNAVAILABLE"), ("two", 1, "READY")]
    repository.spoil("one", 1)  # the file is overwritten while its version serves
    running.poll()
    assert running.answer("one") == 1
    repository.remove("one", 1)
    running.poll()
    assert (running.answer("one"), running.served()["one"]) == (1, [1])  # a version serves until another one has loaded
    repository.remove("one", 2)
    repository.publish("one", 2)
    running.poll()
    assert running.answer("one") == 2
    assert running.loads("one") == (2, 2)


@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_a_broken_version_is_reported_until_a_newer_one_serves_or_another_is_promoted(
    repository: Repository, mode: str
) -> None:
    repository.remove("two")
    running = repository.start(mode, load_model=("one",) if mode == "explicit" else ())

    def index() -> list[tuple[str, int, str]]:
        """Poll or, in explicit mode, request a load of ``one``, which may fail. Return the server's model index."""
        if mode == "poll":
            running.poll()
        else:
            with suppress(ClientError):
                running.client.load_model("one")
        return running.index()

    repository.spoil("one", 7)
    assert index() == [BOTH[0], ("one", 7, "UNAVAILABLE")]
    repository.publish("one", 8)
    assert index() == [("one", 8, "READY")]
    repository.spoil("one", 9)
    assert index() == [("one", 8, "READY"), ("one", 9, "UNAVAILABLE")]
    repository.promote("one", 1)
    assert index() == [BOTH[0]]


def test_a_broken_model_is_reported_until_it_is_removed_or_a_route_has_its_name(repository: Repository) -> None:
    running = repository.start("poll")
    repository.spoil("removed", 7)
    repository.spoil("route", 7)
    running.poll()
    assert running.index() == [BOTH[0], ("removed", 7, "UNAVAILABLE"), ("route", 7, "UNAVAILABLE"), BOTH[1]]
    message = message_of(grpc.StatusCode.NOT_FOUND, running.answer, "removed")
    assert re.search(r"out of service: .*removed/7/model\.onnx", message)
    repository.remove("removed")
    repository.remove("route", 7)
    repository.route("route", "split = {one = 100}")
    running.poll()
    assert running.index() == [BOTH[0], ("route", 1, "READY"), BOTH[1]]


def test_a_repository_that_is_away_for_a_moment_changes_nothing(repository: Repository) -> None:
    running = repository.start("poll")
    away = repository.folder.with_name("away")
    repository.folder.rename(away)
    running.poll()
    assert running.index() == BOTH
    away.rename(repository.folder)
    running.poll()
    assert (running.loads("one"), running.loads("two")) == ((1, 0), (1, 0))


def test_folders_that_cannot_be_read_hold_up_no_other_model_and_end_no_service(repository: Repository) -> None:
    repository.route("both", SPLIT)
    with without_privileges():
        running, explicit = repository.start("poll"), repository.start("explicit")
        for name in ("one", "both"):
            (repository.folder / name).chmod(0)
        repository.publish("two", 2)
        log = running.poll()
        with pytest.raises(ControlError, match="one cannot be read: Permission denied"):
            explicit.server.control.load("one")  # in this thread, which has no privileges
    assert running.served() == {"both": [1], "one": [1], "two": [2]}
    assert running.loads("one") == (1, 0)
    assert any("one cannot be read: Permission denied" in line.get("reason", "") for line in log)
    for name in ("one", "both"):
        (repository.folder / name).chmod(0o755)
    repository.remove("both")
    running.poll()
    assert running.served() == {"one": [1], "two": [2]}


def test_a_promotion_and_a_rollback_are_followed_and_a_damaged_one_changes_nothing(repository: Repository) -> None:
    """The promoted version answers by default, and the latest versions can still be called."""
    repository.publish("one", 2)
    repository.publish("one", 3)
    running = repository.start("poll", num_versions=2)
    assert running.answer("one") == 3
    for promoted, served, loads in ((3, [2, 3], 2), (2, [2, 3], 2), (1, [1, 3], 3), (3, [2, 3], 4), (1, [1, 3], 5)):
        repository.promote("one", promoted)
        running.poll()
        assert (running.answer("one"), running.answer("one", "3"), running.served()["one"]) == (promoted, 3, served)
        assert running.loads("one") == (loads, 0)  # no version is loaded again if only the order changes
    repository.promote("one", 1).unlink()
    running.poll()
    assert running.answer("one") == 3
    repository.promote("one", 7)
    log = running.poll()
    assert running.answer("one") == 3
    assert any("promotes version 7, which does not exist" in line.get("reason", "") for line in log)
    with pytest.raises(UserError, match="promotes version 7"):
        repository.start("none")


WEIGHTS = {5: bytes.fromhex("0000a0400000a040"), 6: bytes.fromhex("0000c0400000c040")}
"""For each answer of the model, the two FP32 weights that produce it, as bytes."""


@pytest.mark.parametrize("place", ["model.onnx.data", "weights/model.data"])
def test_a_version_serves_as_soon_as_its_weights_are_whole_and_again_when_they_are_replaced(
    repository: Repository, place: str
) -> None:
    """The weights are in a separate file, whose name is known only when model.onnx is complete."""
    running = repository.start("poll")
    model = onnx_file.with_external_weights(place, onnx_models.TYPES["FP32"], 2)
    weights = repository.publish("one", 2, model).parent / place
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(WEIGHTS[5][:4])
    assert [line["event"] for line in running.poll(2)] == [NOT_LOADED]
    with weights.open("ab") as file:
        file.write(WEIGHTS[5][4:])
    running.poll()
    assert running.answer("one") == 5
    part = weights.with_name("part")
    part.write_bytes(WEIGHTS[6])
    part.replace(weights)
    running.poll()
    running.poll()
    assert (running.answer("one"), running.loads("one")) == (6, (3, 1))
    weights = repository.publish("one", 3, model).parent / place
    weights.parent.mkdir(exist_ok=True)
    part = weights.with_name("part")
    part.write_bytes(WEIGHTS[5])
    running.poll()
    assert running.answer("one") == 6
    part.rename(weights)
    running.poll()
    assert running.answer("one") == 5
