"""Polling: new versions in the repository are served, removed ones are not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

from hangtag.export.repository import promotion
from hangtag.serving.model_repository import SETTINGS_FILE
from hangtag.serving.server.errors import ControlError, RepositoryError
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start, add, remove, spoil
from tests.serving.server.engine.control.route_files import SPLIT, publish_members, write


def test_polling_serves_new_versions_and_ends_removed_ones(models: Path, start: Start) -> None:
    controlled = start("poll")
    changes: list[dict[str, list[str]]] = []
    controlled.control.on_change = lambda: changes.append(controlled.served())
    unchanged = controlled.engine.model("text")
    controlled.control.poll()
    added = add(models, "gather", 2)
    add(models, "two_inputs", 1)
    controlled.control.poll()
    remove(added)
    remove(models / "two_inputs/1/model.onnx")
    controlled.control.poll()
    assert changes == [
        {"gather": ["2"], "text": ["1"], "two_inputs": ["1"]},
        {"gather": ["1"], "text": ["1"]},
    ]
    assert controlled.engine.model("text") is unchanged


def test_polling_sees_a_file_that_was_replaced(models: Path, start: Start) -> None:
    controlled = start("poll")
    before = controlled.engine.model("gather")
    file = models / "gather/1/model.onnx"
    next_one = models / "next"
    next_one.write_bytes(onnx_models.text().SerializeToString())
    next_one.replace(file)
    controlled.control.poll()
    after = controlled.engine.model("gather")
    assert after is not before
    assert [spec.name for spec in after.signature.inputs] == ["text"]


def test_polling_sees_a_models_own_settings_change(models: Path, start: Start) -> None:
    controlled = start("poll")
    settings = models / "text" / SETTINGS_FILE
    settings.write_text("max_queue_size = 1")
    controlled.control.poll()
    assert controlled.engine.model("text").state().max_queue_size == 256
    settings.write_text("max_queue_size = 300")
    controlled.control.poll()
    assert controlled.engine.model("text").state().max_queue_size == 300
    settings.unlink()
    controlled.control.poll()
    assert controlled.engine.model("text").state().max_queue_size == 256


def test_polling_loads_a_model_whose_settings_were_corrected(models: Path, start: Start) -> None:
    added = add(models, "two_inputs", 1)
    settings = added.parents[1] / SETTINGS_FILE
    settings.write_text("no settings")
    controlled = start("poll")
    assert ("two_inputs", "1", "UNAVAILABLE") in controlled.index()
    settings.write_text("max_batch_size = 8")
    controlled.control.poll()
    assert controlled.engine.model("two_inputs").max_batch_size == 8


def test_polling_leaves_a_serving_model_alone_when_a_new_version_is_broken(models: Path, start: Start) -> None:
    controlled = start("poll")
    before = controlled.engine.model("gather")
    broken = spoil(models, "gather", 2)
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
        controlled.control.poll()
    assert [line["event"] for line in log] == ["model not loaded"]  # once: the file is the same
    assert controlled.engine.model("gather") is before
    assert ("gather", "2", "UNAVAILABLE") in controlled.index()
    spoil(models, "gather", 1)  # in place, under the model that serves
    controlled.control.poll()
    assert controlled.engine.model("gather") is before
    broken.write_bytes(onnx_models.gather().SerializeToString())
    controlled.control.poll()
    assert controlled.served()["gather"] == ["2"]
    assert controlled.control.state().loads["gather", "error"] == 2


def test_a_broken_version_is_reported_until_a_newer_one_serves(models: Path, start: Start) -> None:
    controlled = start("poll")
    text = ("text", "1", "READY")
    spoil(models, "gather", 7)
    controlled.control.poll()
    assert controlled.index() == [("gather", "1", "READY"), ("gather", "7", "UNAVAILABLE"), text]
    add(models, "gather", 8)
    controlled.control.poll()
    assert controlled.index() == [("gather", "8", "READY"), text]
    spoil(models, "gather", 9)
    controlled.control.poll()
    assert controlled.index() == [("gather", "8", "READY"), ("gather", "9", "UNAVAILABLE"), text]
    promotion.promote(models, "gather", 1)
    controlled.control.poll()
    assert controlled.index() == [("gather", "1", "READY"), text]


def test_a_broken_model_is_reported_until_it_is_removed_or_a_route_has_its_name(models: Path, start: Start) -> None:
    controlled = start("poll")
    served = controlled.index()
    files = [spoil(models, name, 7) for name in ("removed", "route")]
    controlled.control.poll()
    broken = [("removed", "7", "UNAVAILABLE"), ("route", "7", "UNAVAILABLE")]
    assert controlled.index() == sorted([*served, *broken])
    for file in files:
        remove(file)
    (models / "removed").rmdir()
    write(models, "route", "split = {gather = 100}")
    controlled.control.poll()
    assert controlled.index() == sorted([*served, ("route", "1", "READY")])


def test_polling_begins_with_the_latest_version_that_can_be_loaded(models: Path, start: Start) -> None:
    spoil(models, "gather", 2), spoil(models, "text", 1)
    controlled = start("poll")
    assert controlled.served() == {"gather": ["1"]}
    assert controlled.index() == [
        ("gather", "1", "READY"),
        ("gather", "2", "UNAVAILABLE"),
        ("text", "1", "UNAVAILABLE"),
    ]


def test_polling_needs_at_least_one_model_to_start(models: Path, start: Start) -> None:
    spoil(models, "gather", 1), spoil(models, "text", 1)
    with pytest.raises(RepositoryError, match=r"no model of .* can be served. .*gather/1/model.onnx cannot be loaded"):
        start("poll")
    for name in ("gather", "text"):
        remove(models / name / "1" / "model.onnx")
    with pytest.raises(RepositoryError, match="holds no model to serve"):
        start("poll")


def test_a_repository_that_is_away_for_a_moment_changes_nothing(models: Path, start: Start) -> None:
    controlled = start("poll")
    served = controlled.served()
    os.rename(models, models.with_name("away"))  # noqa: PTH104
    controlled.control.poll()
    assert controlled.served() == served
    os.rename(models.with_name("away"), models)  # noqa: PTH104


def test_a_models_folder_that_cannot_be_read_holds_up_no_other(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled, explicit = start("poll"), start("explicit")
    served = controlled.engine.model("gather")
    look, is_file = Path.iterdir, Path.is_file

    def refused(folder: Path) -> Iterator[Path]:  # root may read every folder
        if folder == models / "gather":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    def hidden(file: Path) -> bool:
        if file.parent == models / "gather":
            raise PermissionError(13, "Permission denied")
        return is_file(file)

    monkeypatch.setattr(Path, "iterdir", refused)
    monkeypatch.setattr(Path, "is_file", hidden)
    add(models, "text", 2)
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
    assert controlled.served() == {"gather": ["1"], "text": ["2"]}
    assert controlled.engine.model("gather") is served
    assert any(f"{models}/gather cannot be read: Permission denied" in line.get("reason", "") for line in log)
    with pytest.raises(ControlError, match="cannot be read: Permission denied"):
        explicit.control.load("gather")
    assert explicit.control.published() == [("text", "2")]


def test_a_route_serves_on_while_its_folder_cannot_be_read(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_members(models)
    write(models, "both", SPLIT)
    controlled = start("poll")
    assert "both" in controlled.served()
    is_file = Path.is_file

    def hidden(file: Path) -> bool:
        if file.parent == models / "both":
            raise PermissionError(13, "Permission denied")
        return is_file(file)

    monkeypatch.setattr(Path, "is_file", hidden)
    controlled.control.poll()
    assert "both" in controlled.served()
    monkeypatch.undo()
    remove(models / "both/route.toml")
    controlled.control.poll()
    assert "both" not in controlled.served()


def test_polling_follows_a_promotion_and_a_rollback(models: Path, start: Start) -> None:
    add(models, "gather", 2)
    controlled = start("poll")
    promotion.promote(models, "gather", 1)
    add(models, "gather", 3)
    controlled.control.poll()
    assert controlled.served()["gather"] == ["1"]
    promotion.promote(models, "gather", 3)
    controlled.control.poll()
    assert controlled.served()["gather"] == ["3"]
    promotion.roll_back(models, "gather")
    controlled.control.poll()
    assert controlled.served()["gather"] == ["1"]
    promotion.promote(models, "gather", None)
    controlled.control.poll()
    assert controlled.served()["gather"] == ["3"]


def test_the_promoted_version_takes_requests_without_one_and_the_others_stay_reachable(
    models: Path, start: Start
) -> None:
    add(models, "gather", 2), add(models, "gather", 3)
    controlled = start("poll", num_versions=2)
    loaded = controlled.engine.model("gather", "2")
    changes: list[dict[str, list[str]]] = []
    controlled.control.on_change = lambda: changes.append(controlled.served())
    promotion.promote(models, "gather", 2)
    controlled.control.poll()
    assert controlled.served()["gather"] == ["2", "3"]
    assert controlled.engine.model("gather") is loaded  # the same versions in another order: nothing is loaded again
    assert controlled.engine.model("gather", "3").version == "3"
    promotion.promote(models, "gather", 1)
    controlled.control.poll()
    assert controlled.served()["gather"] == ["1", "3"]
    assert len(changes) == 2


def test_a_damaged_promotion_changes_nothing_while_a_server_runs(models: Path, start: Start) -> None:
    add(models, "gather", 2)
    controlled = start("poll")
    (models / "gather/promoted.toml").write_text("version = 7")
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
    assert controlled.served()["gather"] == ["2"]
    assert any("promotes version 7, which is not there" in line.get("reason", "") for line in log)
    with pytest.raises(RepositoryError, match="promotes version 7"):
        start("none")
