"""Models that were proven, and what a test changes in them."""

from pathlib import Path

import onnx
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.training.data.fashion_mnist import Split
from tests.kit.exported import Exported
from tests.kit.onnx_models import publish


def models(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def proven_on(exported: Exported, test: Split, models_dir: Path) -> Path:
    """Take the exported graph through the gate on these images; return the repository."""
    exporter.export(exported.run, models_dir, test, graph=exported.graph)
    return models_dir


def rewritten(proven: Path, models_dir: Path, **metadata: str) -> Path:
    """The proven model with other metadata."""
    model = onnx.load(proven / "lstm/1/model.onnx")
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, own | {f"hangtag.{key}": value for key, value in metadata.items()})
    publish(models_dir, "lstm", model)
    return models_dir
