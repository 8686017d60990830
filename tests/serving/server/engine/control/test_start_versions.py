"""A worker that replaces another starts with what the other workers serve, whatever the repository has become."""

from pathlib import Path

import pytest

from hangtag.serving.model_repository import PROMOTION_FILE
from hangtag.serving.server.errors import ModelLoadError, RepositoryError
from tests.serving.server.engine.control.controlled import Start, add, remove, spoil
from tests.serving.server.engine.control.route_files import SPLIT, publish_members, write

OTHERS = {"gather": (1,), "text": (1,)}
MODES = pytest.mark.parametrize("mode", ["none", "poll", "explicit"])


@MODES
def test_it_loads_nothing_that_was_published_since(models: Path, start: Start, mode: str) -> None:
    (models / "unfinished").mkdir()
    add(models, "gather", 2), add(models, "two_inputs", 1)
    controlled = start(mode, OTHERS, load_model=("gather", "text") if mode == "explicit" else ())
    assert controlled.served() == {"gather": ["1"], "text": ["1"]}


def test_polling_then_serves_what_was_published_since(models: Path, start: Start) -> None:
    add(models, "gather", 2), add(models, "two_inputs", 1)
    controlled = start("poll", OTHERS)
    controlled.control.poll()
    assert controlled.served() == {"gather": ["2"], "text": ["1"], "two_inputs": ["1"]}


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_it_serves_the_routes_that_the_others_serve_and_no_others(models: Path, start: Start, mode: str) -> None:
    publish_members(models)
    write(models, "both", SPLIT), write(models, "later", SPLIT)
    controlled = start(mode, {"one": (1,), "two": (1,), "both": (1,)})
    assert controlled.served() == {"both": ["1"], "one": ["1"], "two": ["1"]}


@MODES
def test_it_starts_without_what_is_gone(models: Path, start: Start, mode: str) -> None:
    remove(models / "gather/1/model.onnx")
    controlled = start(mode, OTHERS | {"away": (1,)}, load_model=("gather", "text") if mode == "explicit" else ())
    assert controlled.served() == {"text": ["1"]}


@MODES
def test_where_their_versions_are_gone_it_loads_others(models: Path, start: Start, mode: str) -> None:
    add(models, "gather", 3)
    remove(models / "gather/1/model.onnx")
    controlled = start(mode, OTHERS, load_model=("gather", "text") if mode == "explicit" else ())
    assert controlled.served() == {"gather": ["3"], "text": ["1"]}


@MODES
def test_a_promotion_that_cannot_be_read_does_not_hinder_it(models: Path, start: Start, mode: str) -> None:
    add(models, "gather", 2)
    (models / "gather" / PROMOTION_FILE).write_text("no promotion")
    controlled = start(mode, OTHERS, load_model=("gather", "text") if mode == "explicit" else ())
    assert controlled.served() == {"gather": ["1"], "text": ["1"]}


def test_a_served_version_that_was_spoiled_in_place_stops_it_unless_polling_has_another(
    models: Path, start: Start
) -> None:
    spoil(models, "gather", 1)
    with pytest.raises(ModelLoadError, match=r"gather/1/model\.onnx cannot be loaded"):
        start("none", {"gather": (1,)})
    assert start("poll", {"gather": (1,)}).served() == {"text": ["1"]}


def test_it_cannot_start_where_all_is_gone(models: Path, start: Start) -> None:
    (models / "gather").rename(models / "other")
    remove(models / "text/1/model.onnx")
    with pytest.raises(RepositoryError, match="holds no model that the other workers serve"):
        start("none", OTHERS)
