"""Models that were proven, and what a test changes in them."""

from pathlib import Path

import onnx
from click.testing import CliRunner, Result

from hangtag.cli import main
from tests.onnx_models import publish


def models(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def rewritten(proven: Path, models_dir: Path, **metadata: str) -> Path:
    """The proven model with other metadata."""
    model = onnx.load(proven / "lstm/1/model.onnx")
    own = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, own | {f"hangtag.{key}": value for key, value in metadata.items()})
    publish(models_dir, "lstm", model)
    return models_dir
