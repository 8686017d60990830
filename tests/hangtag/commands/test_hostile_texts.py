"""What a model's file or a route's file says of itself does nothing to the terminal that shows it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.training.labels.distance import LabelDistances
from tests.hangtag.proven import models
from tests.kit.onnx_models import LABELS, classifier, publish

pytestmark = pytest.mark.slow

HOSTILE = "\x1b[31mred\nmodel  ready [link=https://example.org]x[/link]"
SHOWN = "\\x1b[31mred\\nmodel ready [link=https://example.org]x[/link]"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    model = classifier(labels=json.dumps([HOSTILE, *LABELS[1:]]))
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, own | {f"hangtag.{key}": HOSTILE for key in ("precision", "recipe", "source")})
    publish(tmp_path, "one", model)
    (tmp_path / "route").mkdir()
    (tmp_path / "route/route.toml").write_text(
        f"split = {{one = 100}}\nsticky = 'x-id'\ndescription = {json.dumps(HOSTILE)}\n"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/route.toml").write_text(f"split = {{{json.dumps(HOSTILE)} = 100}}\n")
    return tmp_path


def texts(output: str) -> str:
    """The output with single spaces, after a look at each character."""
    assert all(line.isprintable() for line in output.split("\n"))
    return " ".join(output.split())


def test_models_show_prints_labels_and_metadata_with_escapes(repository: Path) -> None:
    shown = models("show", "one", "--models", repository)
    assert shown.exit_code == 0, shown.output
    assert f"labels {SHOWN}, label 1" in texts(shown.stdout)
    assert f"recipe {SHOWN}" in texts(shown.stdout)
    assert json.loads(models("show", "one", "--models", repository, "--json").stdout)["labels"][0] == HOSTILE


def test_models_list_prints_metadata_and_mistakes_in_routes_with_escapes(repository: Path) -> None:
    listed = models("list", "--models", repository)
    assert listed.exit_code == 0, listed.output
    assert SHOWN in texts(listed.stdout)
    assert [line.split()[0] for line in listed.stdout.splitlines() if line] == [
        "model", "one", "route", "broken", "route"
    ]  # fmt: skip


def test_a_routes_description_keeps_its_line_breaks_alone(repository: Path) -> None:
    shown = models("show", "route", "--models", repository)
    assert shown.exit_code == 0, shown.output
    assert "description \\x1b[31mred model ready [link=https://example.org]x[/link]" in texts(shown.stdout)


def test_labels_prints_names_with_escapes(tmp_path: Path) -> None:
    file = tmp_path / "distances.json"
    matrix = np.array([[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]])
    file.write_text(LabelDistances((HOSTILE, "a", "b"), matrix, {}).text())
    for options in ((), ("--label", "a")):
        shown = CliRunner().invoke(main, ["labels", str(file), *options], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, shown.output
        assert SHOWN in texts(shown.stdout)
