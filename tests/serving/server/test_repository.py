from pathlib import Path

import pytest

from serving.server.errors import RepositoryError
from serving.server.repository import ModelFile, latest_versions


def add(models: Path, *versions: str) -> None:
    for version in versions:
        (models / version).mkdir(parents=True)
        (models / version / "model.onnx").touch()


def test_the_highest_version_of_each_model_by_name(tmp_path: Path) -> None:
    add(tmp_path, "b/9", "b/10", "b/2", "a.b-c_1/1")
    assert latest_versions(tmp_path) == [
        ModelFile("a.b-c_1", 1, tmp_path / "a.b-c_1/1/model.onnx"),
        ModelFile("b", 10, tmp_path / "b/10/model.onnx"),
    ]


def test_what_is_no_model_or_version_is_left_alone(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/01", "m/v2", "m/-3", "m/0", ".git/1")
    (tmp_path / "README.md").touch()
    (tmp_path / "m/labels.txt").touch()
    (tmp_path / "m/7").mkdir()  # being copied: no file yet
    (tmp_path / "m/8/model.onnx").mkdir(parents=True)
    assert [(model.name, model.version) for model in latest_versions(tmp_path)] == [("m", 1)]


def test_links_are_followed(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "1")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/m").symlink_to(tmp_path / "elsewhere")
    assert [model.name for model in latest_versions(tmp_path / "models")] == ["m"]


def test_a_missing_repository_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"nowhere is not a folder. Name the model repository with --models"):
        latest_versions(tmp_path / "nowhere")


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(RepositoryError, match="is not a folder"):
        latest_versions(tmp_path / "models")


def test_an_empty_repository_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"holds no model: expected .*/<name>/<version>/model.onnx"):
        latest_versions(tmp_path)


def test_a_model_without_a_version_is_named(tmp_path: Path) -> None:
    add(tmp_path, "good/1")
    (tmp_path / "bad/latest").mkdir(parents=True)
    with pytest.raises(RepositoryError, match=r"bad has no version to serve: expected .*bad/<version>/model.onnx"):
        latest_versions(tmp_path)
