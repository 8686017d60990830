"""Which models and versions serve after a server's start, and which settings each model has."""

from collections.abc import Callable

import grpc
import pytest

from hangtag.errors import UserError
from hangtag.serving.server.errors import ModelLoadError
from tests.kit.gate import Held
from tests.kit.kinds import message_of
from tests.kit.repository import Repository

MODES = pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
SPLIT = "split = {one = 50, two = 50}"


@pytest.mark.parametrize(("number", "served"), [(1, [10]), (2, [9, 10]), (0, [1, 9, 10])])
def test_the_latest_versions_serve_each_by_its_number(repository: Repository, number: int, served: list[int]) -> None:
    repository.publish("one", 10)
    repository.publish("one", 9)
    running = repository.start(num_versions=number)
    assert running.served() == {"one": served, "two": [1]}
    assert running.answer("one") == 10
    assert [running.answer("one", str(version)) for version in served] == served
    message = message_of(grpc.StatusCode.NOT_FOUND, running.answer, "one", "7")
    assert ", ".join(map(str, reversed(served))) in message


def test_with_explicit_control_only_named_models_serve(repository: Repository) -> None:
    for names, served in (((), {}), (("two",), {"two": [1]}), (("*",), {"one": [1], "two": [1]})):
        assert repository.start("explicit", load_model=names).served() == served


def test_what_cannot_start_names_what_is_missing_or_broken(repository: Repository) -> None:
    with pytest.raises(UserError, match="'nobody'; the models there: one, two"):
        repository.start("explicit", load_model=("nobody",))
    repository.spoil("one", 2)
    repository.spoil("two", 1)
    with pytest.raises(ModelLoadError, match=r"one/2/model\.onnx"):
        repository.start("none")
    repository.spoil("one", 1)
    with pytest.raises(UserError, match=r"one/1/model\.onnx"):
        repository.start("poll")
    for name in ("one", "two"):
        repository.remove(name)
    for mode in ("none", "poll"):
        with pytest.raises(UserError, match="holds no model"):
            repository.start(mode)
    repository.route("both", SPLIT)
    for mode in ("none", "poll"):
        with pytest.raises(UserError, match="its member one does not serve"):
            repository.start(mode)


def test_polling_begins_with_the_latest_version_that_can_be_loaded(repository: Repository) -> None:
    repository.spoil("one", 2)
    repository.spoil("two", 1)
    running = repository.start("poll")
    assert running.index() == [("one", 1, "READY"), ("one", 2, "UNAVAILABLE"), ("two", 1, "UNAVAILABLE")]
    assert running.answer("one") == 1


OTHERS = {"one": (1,), "two": (1,), "both": (1,), "away": (1,)}
"""The versions that the other workers serve while one worker is being replaced."""


def publish_more(repository: Repository) -> None:
    repository.publish("one", 2)
    repository.publish("three")
    repository.route("later", SPLIT)
    (repository.folder / "unfinished").mkdir()


def remove_one(repository: Repository) -> None:
    repository.remove("one", 1)


def replace_one(repository: Repository) -> None:
    remove_one(repository)
    repository.publish("one", 3)


def damage_the_promotion(repository: Repository) -> None:
    repository.publish("one", 2)
    repository.promote("one", 1).write_text("no promotion")


AS_THE_OTHERS = {"both": [1], "one": [1], "two": [1]}


@MODES
@pytest.mark.parametrize(
    ("change", "served"),
    [
        (publish_more, AS_THE_OTHERS),
        (remove_one, {"two": [1]}),
        (replace_one, {"both": [1], "one": [3], "two": [1]}),
        (damage_the_promotion, AS_THE_OTHERS),
    ],
)
def test_a_worker_that_replaces_another_serves_what_the_others_do_where_it_is_still_there(
    repository: Repository,
    mode: str,
    change: Callable[[Repository], None],
    served: dict[str, list[int]],
) -> None:
    repository.route("both", SPLIT)
    change(repository)
    named = ("one", "two", "both") if mode == "explicit" else ()
    running = repository.start(mode, versions=OTHERS, load_model=named)
    assert running.served() == served
    if mode == "poll" and change is publish_more:
        running.poll()
        assert running.served() == {"both": [1], "later": [1], "one": [2], "three": [1], "two": [1]}


def test_a_worker_that_replaces_another_needs_what_they_serve(repository: Repository) -> None:
    repository.spoil("one", 1)
    with pytest.raises(ModelLoadError, match=r"one/1/model\.onnx"):
        repository.start("none", versions={"one": (1,)})
    assert repository.start("poll", versions={"one": (1,)}).served() == {"two": [1]}
    repository.remove("one")
    repository.publish("three")
    with pytest.raises(UserError, match="no model that the other workers serve"):
        repository.start("none", versions={"one": (1,)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size 2", "cannot be read as TOML"),
        ("batch = 2", "unknown setting 'batch'"),
        ("require_proof = false", "unknown setting 'require_proof'"),
        ("max_batch_size = 1.5", "max_batch_size: 1.5 "),
        ("instances = true", "instances: True "),
        ("provider = 'tpu'", "provider: 'tpu' "),
        ("max_batch_size = 101", "--max-queue-size (100) is below --max-batch-size (101)"),
    ],
)
def test_an_invalid_setting_is_an_error_that_names_the_file(repository: Repository, text: str, expected: str) -> None:
    file = repository.settings("one", text)
    with pytest.raises(UserError) as error:
        repository.start(max_queue_size=100)
    assert str(file) in str(error.value)
    assert expected in str(error.value)


def test_each_model_has_its_own_settings_and_otherwise_the_servers(repository: Repository) -> None:
    repository.settings(
        "one", "max_batch_size = 2\ninstances = 3 # of this model\nmax_queue_size = 5\nprovider = 'cpu'"
    )
    running = repository.start(max_batch_size=4, max_queue_size=100, instances=1)
    one, two = (running.state(name) for name in ("one", "two"))
    assert (one.instances, one.max_queue_size, one.requested_provider) == (3, 5, "cpu")
    assert (two.instances, two.max_queue_size, two.requested_provider) == (1, 100, "auto")
    for name, most in (("one", 2), ("two", 4)):
        assert len(running.infer(name, [0] * most)["y"]) == most
        message = message_of(grpc.StatusCode.INVALID_ARGUMENT, running.infer, name, [0] * (most + 1))
        assert f"takes at most {most}" in message
    held = Held(0)
    running.gates.play(one=held)
    calls = [running.infer_later("one", [0, 0]) for _ in range(one.instances)]
    for _ in calls:  # as many batches are computed at the same time as the model has instances
        held.wait()
    held.release()
    assert [len(call.result()["y"]) for call in calls] == [2] * one.instances
