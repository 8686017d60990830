"""Where an exported model's versions lie: <model>/<version>/model.onnx, as `hangtag export` publishes them."""

from pathlib import Path

_FILE = "model.onnx"


def latest(folder: Path) -> Path | None:
    """The file of the latest version in a model's folder; None where there is no version."""
    versions = [file for file in folder.glob(f"*/{_FILE}") if file.parent.name.isdecimal()]
    return max(versions, key=lambda file: int(file.parent.name), default=None)


def named(name: str) -> Path | None:
    """The ONNX file that a name means: FILE.onnx, a version's folder, or a model's, whose latest version is meant.

    None for a name that is none of them.
    """
    path = Path(name)
    if name.endswith(".onnx"):
        return path
    return path / _FILE if (path / _FILE).is_file() else latest(path)
