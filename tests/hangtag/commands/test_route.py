"""``hangtag route tune`` on the shipped models."""

import re
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.evaluation.cascade import members
from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.server.engine.routes.route_file import CascadeSettings, Member, read
from tests.kit import onnx_models, shipped
from tests.kit.browser import chromium, require_good_looks
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow

NEWEST_CNN = f"cnn@{shipped.latest('cnn').parent.name}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("lstm", "lstm2", "cnn"):
        (models / name).symlink_to(MODELS / name)
    return models


@pytest.fixture(autouse=True)
def two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of timing, which are enough for models of which one takes several times as long as the other."""
    monkeypatch.setattr(members, "_ROUNDS", 2)


def tune(models: Path, *arguments: str) -> Result:
    settings = ["--models", str(models), "--limit", "300", "--reports", str(models.parent / "reports")]
    return CliRunner().invoke(main, ["route", "tune", *arguments, *settings], env={"COLUMNS": "120"})


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
    assert f"To expect: of such images {settings.expected_sent_on:.1%} go on to cnn" in " ".join(result.output.split())
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
    assert not (models.parent / "reports/kept.html").exists()
    assert tune(models, "lstm", "cnn", "--name", "kept", "--replace").exit_code == 0
    assert "cascade" in file.read_text()


def test_a_version_may_be_a_member(models: Path) -> None:
    result = tune(models, "lstm", "cnn@1", "--lose-at-most", "0.5", "--name", "older")
    assert result.exit_code == 0, result.output
    settings = read(models / "older/route.toml")
    assert isinstance(settings, CascadeSettings)
    assert settings.members == (Member("lstm"), Member("cnn", "1"))
    assert "tune lstm cnn@1 --lose-at-most" in settings.description
    assert re.search(r"% go on to cnn@1, .*; lstm@2 alone has \d\S+%, cnn@1 \d", settings.description)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lstm", "cnn@77"), f"has no cnn@77; of cnn it has {NEWEST_CNN}, cnn@1."),
        ((NEWEST_CNN, "cnn"), f"a model is named twice: {NEWEST_CNN}, cnn."),
    ],
)
def test_a_version_that_is_not_there_or_named_twice_is_refused(
    models: Path, names: tuple[str, str], message: str
) -> None:
    result = tune(models, *names, "--dry-run")
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_three_models_have_one_threshold_and_the_middle_one_is_judged(models: Path) -> None:
    result = tune(models, "lstm", "lstm2", "cnn", "--lose-at-most", "0.5", "--name", "three")
    assert result.exit_code == 0, result.output
    settings = read(models / "three/route.toml")
    assert isinstance(settings, CascadeSettings)
    assert settings.members == (Member("lstm"), Member("lstm2"), Member("cnn"))
    assert "--lose-at-most 0.5' on 2" in settings.description
    assert re.search(r"% go on to lstm2 and \d+\.\d% to cnn, and \d", settings.description)
    assert re.search(rf"; lstm@2 alone has \d\S+%, lstm2@2 \d\S+%, {NEWEST_CNN} \d\S+%\.$", settings.description)
    assert settings.expected_sent_on is not None
    assert f": of such images {settings.expected_sent_on:.1%} go on to lstm2 and" in " ".join(result.output.split())
    assert re.search(r"at least +sent on to lstm2 +sent on to cnn +accuracy +against cnn", result.output)
    # What the cascade of the other two would be is what tuning them says.
    assert (without := re.search(r"Without lstm2: (0\.\d+), ", result.output))
    two = tune(models, "lstm", "cnn", "--lose-at-most", "0.5", "--dry-run")
    assert f"Chosen: {without[1]}." in two.output


def test_a_cascade_that_is_no_faster_than_its_last_model_is_said_to_save_nothing(models: Path) -> None:
    """lstm2 as the fast model of lstm: every image that goes on costs more than lstm alone."""
    result = tune(models, "lstm2", "lstm", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "This cascade saves nothing: lstm alone takes no longer." in " ".join(result.output.split())
    assert "saves nothing" not in tune(models, "lstm", "cnn", "--dry-run").output
    assert "You need no cascade: lstm alone" in tune(models, "lstm", "cnn", "--lose-at-most", "9", "--dry-run").output


def test_the_report_shows_the_curves_and_the_choice(models: Path, tmp_path: Path) -> None:
    result = tune(models, "lstm", "lstm2", "cnn", "--lose-at-most", "0.5", "--name", "drawn")
    file = models.parent / "reports/drawn.html"
    assert f"wrote {file}" in result.stderr
    page = file.read_text()
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    texts = [" ".join("".join(picture.itertext()).split()) for picture in pictures]
    bound = tomllib.loads((models / "drawn/route.toml").read_text())["accept"]["at_least"]
    assert len(texts) == 2
    for text, axis in zip(texts, ("goes on to cnn", "of what cnn alone takes"), strict=True):
        assert axis in text
        assert {"lstm", "cnn", f"{bound:g}"} <= set(text.split())
    assert f'<td>{bound:g} <span class="pill good">chosen</span></td>' in page
    assert "goes on to lstm2" in page
    assert "Measured on 300 validation images" in page
    with chromium() as browser:
        require_good_looks(browser, file)


def test_without_the_packages_that_draw_the_route_is_written_all_the_same(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "hangtag.evaluation.cascade.page", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    result = tune(models, "lstm", "cnn", "--lose-at-most", "2", "--name", "undrawn")
    assert result.exit_code == 0, result.output
    assert (models / "undrawn/route.toml").exists()
    assert "no report: the report needs the Python module 'matplotlib.axes'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstm", "lstm"), "a model is named twice: lstm, lstm."),
        (("lstm",), "a cascade needs at least two models, the fastest first."),
        ((), "Missing argument"),
        (("lstm", "cnm"), "holds no model 'cnm'; the models there: "),
        (("lstm", "cnn", "--name", "../x"), "cannot be a route's name"),
        (("lstm", "cnn", "--name", "lstm2"), "lstm2 holds a model; a route needs another name, given with --name."),
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
