"""A model repository that a test changes, as its owner does."""

import shutil
from pathlib import Path

import onnx

from tests.kit import onnx_models


class Repository:
    """A folder of models whose answers say which version computed them, and of routes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def publish(self, name: str, version: int = 1, model: onnx.ModelProto | None = None) -> Path:
        """Add a version; by default x FP32 [batch, 2] -> y FP32 [batch, 2], x plus the version's number."""
        return onnx_models.publish(self.folder, name, model or onnx_models.shifted(version), version)

    def spoil(self, name: str, version: int) -> Path:
        """Put a file into a version that is no model, in place of the one that it may have."""
        return _write(self.folder / name / str(version) / "model.onnx", "no model")

    def settings(self, name: str, text: str) -> Path:
        """Write a model's own settings."""
        return _write(self.folder / name / "serving.toml", text)

    def promote(self, name: str, version: int) -> Path:
        """Let a version serve, as ``hangtag models promote`` does."""
        return _write(self.folder / name / "promoted.toml", f"version = {version}\n")

    def route(self, name: str, text: str) -> Path:
        """Write a route's file."""
        return _write(self.folder / name / "route.toml", text)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a version; None: the whole folder, of a model or a route."""
        shutil.rmtree(self.folder / name if version is None else self.folder / name / str(version))


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
