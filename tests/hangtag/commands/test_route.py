"""``hangtag route tune`` on the shipped models."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.server.engine.routes.route_file import CascadeSettings, Member, read
from tests import onnx_models
from tests.shipped import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("lstm", "cnn"):
        (models / name).symlink_to(MODELS / name)
    return models


def tune(models: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["route", "tune", *arguments, "--models", str(models), "--limit", "300"])


def test_the_threshold_is_chosen_and_written_with_where_it_came_from(models: Path) -> None:
    result = tune(models, "lstm", "cnn", "--lose-at-most", "0.5", "--name", "chosen")
    assert result.exit_code == 0, result.output
    file = models / "chosen/route.toml"
    settings = read(file)
    assert isinstance(settings, CascadeSettings)
    assert settings.members == (Member("lstm"), Member("cnn"))
    assert isinstance(settings.acceptance, Acceptance)
    assert 0.3 < settings.acceptance.bound < 1
    assert settings.expected_sent_on is not None
    assert f"To expect: {settings.expected_sent_on:.1%} of such images go on to cnn" in " ".join(result.output.split())
    assert settings.description.startswith("Chosen by 'hangtag route tune lstm cnn --lose-at-most 0.5' on 2")
    assert ": of 300 validation images " in settings.description
    assert "; lstm@2 alone has " in settings.description
    assert f"Chosen: {settings.acceptance.bound:g}." in result.output
    assert "'hangtag models load chosen', any other (the default) when it starts again" in result.output
    # A larger loss sends fewer images on.
    assert tune(models, "lstm", "cnn", "--lose-at-most", "2", "--name", "looser").exit_code == 0
    looser = tomllib.loads((models / "looser/route.toml").read_text())
    assert looser["accept"]["at_least"] < settings.acceptance.bound


def test_a_route_is_replaced_only_by_name_and_a_dry_run_writes_nothing(models: Path) -> None:
    file = models / "kept/route.toml"
    file.parent.mkdir()
    file.write_text("split = {cnn = 100}")
    result = tune(models, "lstm", "cnn", "--name", "kept")
    assert result.exit_code == 1
    assert "is there already. Name another route with --name, or replace it with --replace." in result.output
    assert tune(models, "lstm", "cnn", "--name", "kept", "--dry-run").exit_code == 0
    assert file.read_text() == "split = {cnn = 100}"
    assert tune(models, "lstm", "cnn", "--name", "kept", "--replace").exit_code == 0
    assert "cascade" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstm", "lstm"), "FAST and ACCURATE are the same model."),
        (("lstm", "cnm"), "holds no model 'cnm'; the models there: "),
        (("lstm", "cnn", "--name", "../x"), "cannot be a route's name"),
        (("lstm", "gather"), "takes index: INT64 [any]"),
    ],
)
def test_mistakes_are_named(models: Path, arguments: tuple[str, ...], message: str) -> None:
    if not (models / "gather").exists():
        onnx_models.publish(models, "gather", onnx_models.gather())
    result = tune(models, *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
