from pathlib import Path

import pytest

from hangtag.serving.server.engine import repository
from hangtag.serving.server.errors import NotFoundError, RepositoryError
from tests.serving.test_model_repository import add


def test_a_file_that_changes_has_another_stamp(tmp_path: Path) -> None:
    add(tmp_path, "m/1")
    (file,) = repository.versions(tmp_path, "m")
    before = repository.stamp(file)
    file.path.write_text("changed")
    assert repository.stamp(file) != before
    before = repository.stamp(file)
    settings = file.settings
    settings.write_text("instances = 1")
    with_settings = repository.stamp(file)
    assert with_settings != before
    settings.unlink()
    assert repository.stamp(file) == before
    weights = file.path.with_name("model.onnx.data")
    weights.write_text("weights")
    with_weights = repository.stamp(file)
    assert with_weights != before
    weights.rename(weights.with_name("model.onnx.part"))
    assert repository.stamp(file) != with_weights
    file.path.unlink()
    assert repository.stamp(file) != before


def test_errors_of_the_repository_become_errors_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be a model's name"):
        repository.versions(tmp_path, "../m")
    with pytest.raises(RepositoryError, match="is not a folder"):
        repository.names(tmp_path / "nowhere")
    with pytest.raises(RepositoryError, match="holds no model"):
        repository.require_names(tmp_path)


def test_published_leaves_out_models_without_a_version(tmp_path: Path) -> None:
    assert repository.published(tmp_path / "nowhere") == []
    add(tmp_path, "m/1", "m/2")
    (tmp_path / "empty").mkdir()
    assert repository.published(tmp_path) == [("m", "2")]


def test_published_lists_routes_in_their_one_version(tmp_path: Path) -> None:
    add(tmp_path, "m/1")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/route.toml").write_text("no matter whether it can serve")
    assert repository.published(tmp_path) == [("both", "1"), ("m", "1")]
