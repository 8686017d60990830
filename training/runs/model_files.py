"""Where an exported model's versions lie: <model>/<version>/model.onnx, as `hangtag export` publishes them."""

from pathlib import Path

_FILE = "model.onnx"


def latest(folder: Path) -> Path | None:
    """The file of the latest version in a model's folder; None where there is no version."""
    return next(reversed(versions(folder)), None)


def versions(folder: Path) -> list[Path]:
    """The files of all versions in a model's folder, from the earliest to the latest."""
    found = [file for file in folder.glob(f"*/{_FILE}") if file.parent.name.isdecimal()]
    return sorted(found, key=lambda file: int(file.parent.name))


def named(name: str) -> Path | None:
    """The ONNX file that a name means: FILE.onnx, a version's folder, or a model's, whose latest version is meant.

    None for a name that is none of them.
    """
    path = Path(name)
    if name.endswith(".onnx"):
        return path
    return path / _FILE if (path / _FILE).is_file() else latest(path)
