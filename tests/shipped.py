"""The models that ship, each by its latest version, which is what a server takes."""

from pathlib import Path

from hangtag.serving.model_repository import versions

MODELS = Path(__file__).parents[1] / "models"


def latest(name: str) -> Path:
    """A model's file."""
    return versions(MODELS, name)[0].path
