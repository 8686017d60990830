"""The folders of a model repository: which models and versions it has, and which are served."""

from pathlib import Path

import pytest

from hangtag.serving.model_repository import (
    ModelFile,
    ModelNameError,
    ModelRepositoryError,
    find_file,
    names,
    next_version,
    require_names,
    require_versions,
    serving_versions,
    versions,
)


def add(models: Path, *paths: str) -> None:
    for version in paths:
        (models / version).mkdir(parents=True)
        (models / version / "model.onnx").touch()


def numbers(models: Path, name: str) -> list[int]:
    return [file.version for file in versions(models, name)]


def test_a_models_versions_the_latest_first(tmp_path: Path) -> None:
    add(tmp_path, "b/9", "b/10", "b/2", "a.b-c_1/1")
    assert names(tmp_path) == require_names(tmp_path) == ["a.b-c_1", "b"]
    assert versions(tmp_path, "a.b-c_1") == [ModelFile("a.b-c_1", 1, tmp_path / "a.b-c_1/1/model.onnx")]
    assert numbers(tmp_path, "b") == [file.version for file in require_versions(tmp_path, "b")] == [10, 9, 2]


def test_other_files_and_folders_are_ignored_and_links_followed(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "1")
    models = tmp_path / "models"
    add(models, "m/1", "m/01", "m/v2", "m/-3", "m/0", ".git/1")
    (models / "README.md").touch()
    (models / "m/labels.txt").touch()
    (models / "m/7").mkdir()  # being copied: no file yet
    (models / "m/8/model.onnx").mkdir(parents=True)
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(models) == ["linked", "m"]
    assert numbers(models, "m") == numbers(models, "linked") == [1]


@pytest.mark.parametrize(
    "name", ["..", "../m", "m/../m", "/etc", "m/1", ".git", "", "m\0", "a b", "~", "-m", "m\n", "é", "m" * 256]
)
def test_a_name_that_could_leave_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    add(tmp_path, "m/1")
    with pytest.raises(ModelNameError):
        versions(tmp_path / "m", name)


def test_what_is_no_repository_is_named_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    models = tmp_path / "models"
    add(models, "m/2", "m/10")
    (models / "route").mkdir()
    (models / "route/route.toml").touch()
    assert [file.name for file in serving_versions(models)] == ["m"]
    (models / "bad/latest").mkdir(parents=True)
    assert not names(tmp_path / "empty")
    assert not versions(models, "bad")
    for call, facts in (
        (lambda: names(tmp_path / "nowhere"), r"nowhere is not a folder.* --models"),
        (lambda: names(tmp_path / "file"), "file is not a folder"),
        (lambda: require_names(tmp_path / "empty"), r"expected .*/<name>/<version>/model\.onnx"),
        (lambda: require_versions(models, "bad"), r"bad has no version .*bad/<version>/model\.onnx"),
        (lambda: require_versions(models, "good"), r"no model 'good'; the models there: bad, m"),
        (lambda: require_versions(models, "route"), r"route is a route.*route\.toml"),
        (lambda: require_versions(models / "m", "10"), r"m is one model's folder.* name the folder above it"),
    ):
        with pytest.raises(ModelRepositoryError, match=facts):
            call()


def test_a_file_is_named_by_its_path_its_versions_folder_or_its_models_folder(tmp_path: Path) -> None:
    add(tmp_path, "m/2", "m/10")
    assert find_file(str(tmp_path / "m")) == find_file(str(tmp_path / "m/10")) == tmp_path / "m/10/model.onnx"
    assert find_file(str(tmp_path / "m/2")) == tmp_path / "m/2/model.onnx"
    assert find_file("nowhere/file.onnx") == Path("nowhere/file.onnx")
    assert find_file(str(tmp_path)) is None
    assert find_file("a run's name") is None


def test_the_promoted_version_comes_first_whatever_is_published_later(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/2", "m/10")
    (tmp_path / "m/promoted.toml").write_text("version = 2\n")
    assert numbers(tmp_path, "m") == [2, 10, 1]
    assert find_file(str(tmp_path / "m")) == tmp_path / "m/2/model.onnx"
    assert next_version(tmp_path, "m") == 11
    (tmp_path / "m/promoted.toml").write_text("version = 1\nhistory = [2, 10]\n")
    assert require_versions(tmp_path, "m")[0].version == 1


@pytest.mark.parametrize(
    "content",
    ["version = ", "", "version = 0", "version = true", "version = 'x'", "version = 1\nhistory = 2", "other = 1"],
)
def test_a_promotion_that_cannot_be_understood_is_an_error_and_no_guess(tmp_path: Path, content: str) -> None:
    add(tmp_path, "m/1")
    (tmp_path / "m/promoted.toml").write_text(content)
    with pytest.raises(ModelRepositoryError, match=r"m/promoted\.toml .*'hangtag models promote NAME VERSION'"):
        versions(tmp_path, "m")


def test_a_promoted_version_that_is_gone_is_named(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/3")
    (tmp_path / "m/promoted.toml").write_text("version = 2")
    with pytest.raises(ModelRepositoryError, match=r"version 2, .*there are 3, 1\."):
        versions(tmp_path, "m")
