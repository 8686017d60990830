"""A version is published completely or not at all, even if a publisher fails, is killed, or is not the only one."""

import errno
import os
from pathlib import Path

import pytest

from hangtag.export.repository.publishing import publish
from hangtag.serving.model_repository import serving_versions
from tests.export.repository.publisher import killed_at, publish_content, published_at_once
from tests.kit.command import contents


def latest_served(models: Path) -> dict[str, int]:
    """The version that a server would serve, by model."""
    return {file.name: file.version for file in serving_versions(models)}


def test_versions_count_up_in_the_layout_that_triton_documents(tmp_path: Path) -> None:
    """As in Triton's user guide, "Model Repository": each model has a folder, in which each version has a folder with
    the file model.onnx. The name of a version's folder is a number. An ONNX model needs no config.pbtxt."""
    models = tmp_path / "some/where"
    for version, text in enumerate(["first", "second", "third"], start=1):
        assert publish_content(models, "cnn", text) == models / "cnn" / str(version)
        assert (models / "cnn" / str(version) / "model.onnx").read_text() == text
    publish_content(models, "Resnet_50.v2", "another")
    assert contents(models).keys() == {
        "cnn", "Resnet_50.v2", "Resnet_50.v2/1", "Resnet_50.v2/1/model.onnx",
        *(f"cnn/{n}" for n in (1, 2, 3)), *(f"cnn/{n}/model.onnx" for n in (1, 2, 3)),
    }  # fmt: skip
    assert latest_served(models) == {"cnn": 3, "Resnet_50.v2": 1}
    for path in models.rglob("*"):  # a server that runs as another user can read the files
        required = 0o055 if path.is_dir() else 0o044
        assert path.stat().st_mode & required == required


def test_the_next_version_is_one_above_the_highest_number(tmp_path: Path) -> None:
    for name in ("2", "5", "latest", "v7", "8.bak", "-9", ".publishing-10"):
        (tmp_path / "cnn" / name).mkdir(parents=True)
    (tmp_path / "cnn/11.txt").touch()
    assert publish_content(tmp_path, "cnn", "").name == "6"


def test_every_new_or_changed_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sync of the folder, a loss of power could remove the entry of a published version from the folder."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink()))
    for folder in ("some/where", "some/where/cnn"):  # the last synced folder is the one that contains the new entry
        publish_content(tmp_path / "some/where", "cnn", "")
        assert synced[-1] == tmp_path / folder
        assert len([path for path in synced if path.name == "model.onnx"]) == int(folder.endswith("cnn")) + 1
    assert synced[:2] == [tmp_path / "some", tmp_path]


@pytest.mark.parametrize("there", [[], ["lstm"], ["cnn"]])
def test_a_failure_leaves_the_repository_as_it_was(tmp_path: Path, there: list[str]) -> None:
    models = tmp_path / "some/models"
    for name in there:
        publish_content(models, name, "old")
    before, served = contents(tmp_path), latest_served(models) if there else {}

    def fail_in_the_middle() -> None:
        with publish(models, "cnn") as publication:
            publication.model_file.write_text("half")
            assert not there or latest_served(models) == served  # a server sees the old state until the block ends
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("there", [0, 1])
def test_processes_that_publish_at_once_all_succeed(tmp_path: Path, there: int) -> None:
    models = tmp_path / "models"
    for _ in range(there):
        publish_content(models, "cnn", "old")
    texts = [name * 1000 for name in ("one", "two", "three")]
    folders = published_at_once(models, "cnn", texts)
    assert sorted(folders) == [models / "cnn" / str(there + n) for n in (1, 2, 3)]
    assert [(folder / "model.onnx").read_text() for folder in folders] == texts
    assert not list(models.rglob(".publishing-*"))


def test_the_staging_folder_of_a_running_export_is_not_removed(tmp_path: Path) -> None:
    with publish(tmp_path, "cnn") as running:
        running.model_file.write_text("theirs")
        assert publish_content(tmp_path, "lstm", "ours").name == "1"
    assert (tmp_path / "cnn/1/model.onnx").read_text() == "theirs"


def test_without_file_locks_publishing_works_and_removes_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have no file locks."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    (tmp_path / ".publishing-theirs").mkdir()
    assert publish_content(tmp_path, "cnn", "ours") == tmp_path / "cnn/1"
    assert (tmp_path / ".publishing-theirs").is_dir()


@pytest.mark.parametrize("there", [0, 1])
def test_a_kill_before_any_step_leaves_the_old_state_or_the_new(tmp_path: Path, there: int) -> None:
    outcomes = []
    for moment in range(1, 200):
        models = tmp_path / str(moment)
        publish_content(models, "lstm", "another")
        for _ in range(there):
            publish_content(models, "cnn", "old")
        before = latest_served(models)
        killed = killed_at(moment, models)
        after = latest_served(models)
        assert after in (before, before | {"cnn": there + 1})
        if after != before:
            assert (models / "cnn" / str(there + 1) / "model.onnx").read_text() == "new"
        if there:
            assert (models / "cnn/1/model.onnx").read_text() == "old"
        assert publish_content(models, "cnn", "next").name == str(after.get("cnn", 0) + 1)
        assert not list(models.rglob(".publishing-*"))  # publish_content removed what the killed process left
        outcomes.append(after != before)
        if not killed:
            break
    assert not killed  # the last process ended before it could be killed
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 5
