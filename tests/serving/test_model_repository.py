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


def test_a_models_versions_the_latest_first(tmp_path: Path) -> None:
    add(tmp_path, "b/9", "b/10", "b/2", "a.b-c_1/1")
    assert names(tmp_path) == require_names(tmp_path) == ["a.b-c_1", "b"]
    assert versions(tmp_path, "a.b-c_1") == [ModelFile("a.b-c_1", 1, tmp_path / "a.b-c_1/1/model.onnx")]
    assert [file.version for file in require_versions(tmp_path, "b")] == [10, 9, 2]


def test_other_files_and_folders_are_ignored(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/01", "m/v2", "m/-3", "m/0", ".git/1")
    (tmp_path / "README.md").touch()
    (tmp_path / "m/labels.txt").touch()
    (tmp_path / "m/7").mkdir()  # being copied: no file yet
    (tmp_path / "m/8/model.onnx").mkdir(parents=True)
    assert names(tmp_path) == ["m"]
    assert [file.version for file in versions(tmp_path, "m")] == [1]


def test_links_are_followed(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "1")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/m").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "models") == ["m"]
    assert [file.version for file in versions(tmp_path / "models", "m")] == [1]


@pytest.mark.parametrize(
    "name", ["..", "../m", "m/../m", "/etc", "m/1", ".git", "", "m\0", "a b", "~", "-m", "m\n", "é", "m" * 256]
)
def test_a_name_that_could_leave_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    add(tmp_path, "m/1")
    with pytest.raises(ModelNameError, match="cannot be a model's name"):
        versions(tmp_path / "m", name)


def test_a_missing_repository_is_reported_with_the_option_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelRepositoryError, match=r"nowhere is not a folder. Name the model repository with --models"):
        names(tmp_path / "nowhere")


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(ModelRepositoryError, match="is not a folder"):
        names(tmp_path / "models")


def test_an_empty_repository_is_reported_with_the_expected_layout(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    with pytest.raises(ModelRepositoryError, match=r"holds no model: expected .*/<name>/<version>/model.onnx"):
        require_names(tmp_path)


def test_a_model_without_a_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad/latest").mkdir(parents=True)
    assert versions(tmp_path, "bad") == []
    with pytest.raises(ModelRepositoryError, match=r"bad has no version to serve: expected .*bad/<version>/model.onnx"):
        require_versions(tmp_path, "bad")
    with pytest.raises(ModelRepositoryError, match="holds no model 'good'; the models there: bad\\."):
        require_versions(tmp_path, "good")


def test_a_route_has_no_version(tmp_path: Path) -> None:
    add(tmp_path, "m/2")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/route.toml").touch()
    assert [file.name for file in serving_versions(tmp_path)] == ["m"]
    with pytest.raises(ModelRepositoryError, match=r"both is a route, which has no versions of its own: .*route\.toml"):
        require_versions(tmp_path, "both")


def test_one_models_folder_is_not_taken_for_a_repository(tmp_path: Path) -> None:
    add(tmp_path, "m/2", "m/10")
    with pytest.raises(ModelRepositoryError, match=r"m is one model's folder, .*: name the folder above it"):
        require_versions(tmp_path / "m", "10")


def test_a_file_is_named_by_its_path_its_versions_folder_or_its_models_folder(tmp_path: Path) -> None:
    add(tmp_path, "m/2", "m/10")
    assert find_file(str(tmp_path / "m")) == find_file(str(tmp_path / "m/10")) == tmp_path / "m/10/model.onnx"
    assert find_file(str(tmp_path / "m/2")) == tmp_path / "m/2/model.onnx"
    assert find_file("nowhere/file.onnx") == Path("nowhere/file.onnx")
    assert find_file(str(tmp_path)) is None
    assert find_file("a run's name") is None


def promote(models: Path, content: str) -> None:
    (models / "m/promoted.toml").write_text(content)


def test_the_promoted_version_comes_first_whatever_is_published_later(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/2", "m/10")
    promote(tmp_path, "version = 2\n")
    assert [file.version for file in versions(tmp_path, "m")] == [2, 10, 1]
    assert find_file(str(tmp_path / "m")) == tmp_path / "m/2/model.onnx"
    assert next_version(tmp_path, "m") == 11
    promote(tmp_path, "version = 1\nhistory = [2, 10]\n")
    assert require_versions(tmp_path, "m")[0].version == 1


@pytest.mark.parametrize(
    "content",
    ["version = ", "", "version = 0", "version = true", "version = 'x'", "version = 1\nhistory = 2", "other = 1"],
)
def test_a_promotion_that_cannot_be_understood_is_an_error_and_no_guess(tmp_path: Path, content: str) -> None:
    add(tmp_path, "m/1")
    promote(tmp_path, content)
    with pytest.raises(
        ModelRepositoryError, match=r"m/promoted\.toml .*'hangtag models promote NAME VERSION' writes it"
    ):
        versions(tmp_path, "m")


def test_a_promoted_version_that_is_gone_is_named(tmp_path: Path) -> None:
    add(tmp_path, "m/1", "m/3")
    promote(tmp_path, "version = 2")
    with pytest.raises(ModelRepositoryError, match=r"promotes version 2, which is not there; there are 3, 1\. Promote"):
        versions(tmp_path, "m")
