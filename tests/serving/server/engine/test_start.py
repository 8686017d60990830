"""Which models and versions serve once a server has started."""

from collections.abc import Callable

import grpc
import pytest

from hangtag import ClientError
from hangtag.serving.server.errors import ModelLoadError, RepositoryError
from tests.kit.repository import Repository
from tests.serving.server.engine.running import Start

MODES = pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
SPLIT = "split = {one = 50, two = 50}"


@pytest.mark.parametrize(("number", "served"), [(1, [10]), (2, [9, 10]), (0, [1, 9, 10])])
def test_the_latest_versions_serve_each_by_its_number(
    repository: Repository, start: Start, number: int, served: list[int]
) -> None:
    repository.publish("one", 10)
    repository.publish("one", 9)
    running = start(num_versions=number)
    assert running.served() == {"one": served, "two": [1]}
    assert running.answer("one") == 10
    assert [running.answer("one", str(version)) for version in served] == served
    with pytest.raises(ClientError, match=", ".join(map(str, reversed(served)))) as refused:
        running.answer("one", "7")
    assert refused.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("names", "served"), [((), {}), (("two",), {"two": [1]}), (("*",), {"one": [1], "two": [1]})])
def test_with_explicit_control_only_named_models_serve(
    start: Start, names: tuple[str, ...], served: dict[str, list[int]]
) -> None:
    assert start("explicit", load_model=names).served() == served


def test_what_cannot_start_names_what_is_missing_or_broken(repository: Repository, start: Start) -> None:
    with pytest.raises(RepositoryError, match="'nobody'; the models there: one, two"):
        start("explicit", load_model=("nobody",))
    repository.spoil("one", 2)
    repository.spoil("two", 1)
    with pytest.raises(ModelLoadError, match=r"one/2/model\.onnx"):
        start("none")
    repository.spoil("one", 1)
    with pytest.raises(RepositoryError, match=r"one/1/model\.onnx"):
        start("poll")
    for name in ("one", "two"):
        repository.remove(name)
    for mode in ("none", "poll"):
        with pytest.raises(RepositoryError, match="holds no model"):
            start(mode)
    repository.route("both", SPLIT)
    for mode in ("none", "poll"):
        with pytest.raises(RepositoryError, match="its member one does not serve"):
            start(mode)


def test_polling_begins_with_the_latest_version_that_can_be_loaded(repository: Repository, start: Start) -> None:
    repository.spoil("one", 2)
    repository.spoil("two", 1)
    running = start("poll")
    assert running.index() == [("one", 1, "READY"), ("one", 2, "UNAVAILABLE"), ("two", 1, "UNAVAILABLE")]
    assert running.answer("one") == 1


OTHERS = {"one": (1,), "two": (1,), "both": (1,), "away": (1,)}
"""What the workers serve one of whom is replaced."""


def nothing(_: Repository) -> None: ...


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
        (nothing, AS_THE_OTHERS),
        (publish_more, AS_THE_OTHERS),
        (remove_one, {"two": [1]}),
        (replace_one, {"both": [1], "one": [3], "two": [1]}),
        (damage_the_promotion, AS_THE_OTHERS),
    ],
)
def test_a_worker_that_replaces_another_serves_what_the_others_do_where_it_is_still_there(
    repository: Repository,
    start: Start,
    mode: str,
    change: Callable[[Repository], None],
    served: dict[str, list[int]],
) -> None:
    repository.route("both", SPLIT)
    change(repository)
    named = ("one", "two", "both") if mode == "explicit" else ()
    running = start(mode, versions=OTHERS, load_model=named)
    assert running.served() == served
    if mode == "poll" and change is publish_more:
        running.poll()
        assert running.served() == {"both": [1], "later": [1], "one": [2], "three": [1], "two": [1]}


def test_a_worker_that_replaces_another_needs_what_they_serve(repository: Repository, start: Start) -> None:
    repository.spoil("one", 1)
    with pytest.raises(ModelLoadError, match=r"one/1/model\.onnx"):
        start("none", versions={"one": (1,)})
    assert start("poll", versions={"one": (1,)}).served() == {"two": [1]}
    repository.remove("one")
    repository.publish("three")
    with pytest.raises(RepositoryError, match="no model that the other workers serve"):
        start("none", versions={"one": (1,)})
