"""The models that ship, each by its latest version, which is what a server takes."""

from pathlib import Path

from hangtag.training.runs import model_files

MODELS = Path(__file__).parents[1] / "models"


def latest(name: str) -> Path:
    """A model's file."""
    file = model_files.latest(MODELS / name)
    assert file is not None
    return file
