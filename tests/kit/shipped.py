"""The files of the shipped models."""

from pathlib import Path

from hangtag.serving.model_repository import versions

MODELS = Path(__file__).parents[2] / "models"


def latest(name: str) -> Path:
    """The file of a model's latest version, which a server loads by default."""
    return versions(MODELS, name)[0].path
