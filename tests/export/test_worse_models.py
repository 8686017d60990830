"""A model that is worse than the one that serves is published only on request; trial runs are named everywhere."""

import re
import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.export.errors import IncomparableError
from hangtag.export.file import torch_export
from hangtag.training.data import fashion_mnist
from hangtag.training.data.fashion_mnist import Split
from tests.export import runs
from tests.export.exported import Exported
from tests.export.files import exported_as
from tests.kit import onnx_models
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that the exporter made of the same weights before; few test images; the default folders outside of the
    checkout."""
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file))
    monkeypatch.setattr(fashion_mnist, "load_test", lambda data_dir: garments)
    monkeypatch.chdir(tmp_path)


def hangtag(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=answer)


def test_a_trial_run_does_not_replace_the_shipped_model_unless_the_user_says_so(lstm: Exported) -> None:
    shutil.copytree(MODELS / "lstm", "models/lstm")
    before = runs.contents(Path("models"))
    result = hangtag("export", lstm.run.folder, "--timing", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: predecessor: test accuracy " in result.stderr
    assert "and version 2, which serves, has 93.09%. It is " in result.stderr
    assert (
        "The run is a trial, trained on the first 32 images only. To publish it all the same, add --even-if-worse ("
        in (result.stderr)
    )
    assert "make export MODEL=lstm ARGS=--even-if-worse" in result.stderr
    assert runs.contents(Path("models")) == before

    result = hangtag("export", lstm.run.folder, "--timing", "none", "--even-if-worse")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("published models/lstm/3\n  TRIAL RUN    trained on the first 32 images only\n")
    assert "  predecessor  WORSE, published all the same: test accuracy " in result.stdout
    page = " ".join(re.sub(r"<[^>]*>", " ", Path("reports/export/lstm-3.html").read_text()).split())
    assert "A trial run: trained on the first 32 images only." in page
    assert "It is worse than the version that served before" in page
    assert "passed agreement" in page
    assert "worse predecessor" in page
    assert "TRIAL RUN trained on the first 32 images only" in " ".join(hangtag("models", "show", "lstm").stdout.split())
    listed = hangtag("models", "list").stdout
    assert "TRIAL RUN: trained on the first 32 images only" in listed
    assert "test accuracy" in listed.splitlines()[0]


def test_a_promoted_version_is_the_one_to_compare_with_and_goes_on_serving(lstm: Exported) -> None:
    shutil.copytree(MODELS / "lstm", "models/lstm")
    assert hangtag("models", "promote", "lstm", "1").exit_code == 0
    result = hangtag("export", lstm.run.folder, "--timing", "none", "--even-if-worse")
    assert result.exit_code == 0, result.output
    assert "and version 1, which serves, has " in result.stdout
    assert "note: version 1 is promoted and goes on serving. Next: hangtag models promote lstm 3" in result.stderr


def test_a_model_without_a_figure_on_the_same_data_is_replaced_only_on_request(
    lstm: Exported, garments: Split, tmp_path: Path
) -> None:
    onnx_models.publish(tmp_path / "models", "lstm", onnx_models.classifier())
    with pytest.raises(
        IncomparableError, match=r"models/lstm version 1, which serves, records no test figure, so .* add"
    ):
        exporter.export(lstm.run, tmp_path / "models", garments)

    other = onnx.load(lstm.file)
    own = {entry.key: entry.value for entry in other.metadata_props}
    onnx.helper.set_model_props(other, own | {"hangtag.data_digest": "other", "hangtag.test_accuracy": "0.9000"})
    onnx_models.publish(tmp_path / "models", "lstm", other, version=2)
    before = runs.contents(tmp_path / "models")
    with pytest.raises(
        IncomparableError, match=r"was tested on another data set \(test accuracy 90\.00%\), so nothing"
    ):
        exporter.export(lstm.run, tmp_path / "models", garments)
    assert runs.contents(tmp_path / "models") == before
    published = exporter.export(lstm.run, tmp_path / "models", garments, even_if_worse=True)
    assert published.folder.name == "3"


def test_on_a_terminal_the_command_asks(lstm: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_models.publish(Path("models"), "lstm", onnx_models.classifier())
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    result = hangtag("export", lstm.run.folder, "--timing", "none", answer="n\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Publish it all the same? [y/N]" in result.stderr
    assert hangtag("export", lstm.run.folder, "--timing", "none", answer="y\n").exit_code == 0
    assert Path("models/lstm/2/model.onnx").exists()


def test_a_version_that_cannot_be_loaded_is_no_obstacle(lstm: Exported, garments: Split, tmp_path: Path) -> None:
    onnx_models.publish(tmp_path / "models", "lstm", onnx_models.classifier()).write_bytes(b"damaged")
    assert exporter.export(lstm.run, tmp_path / "models", garments).folder.name == "2"
