"""Run our modules on somebody else's file in child processes, which the file may end."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hangtag.export import child_process
from hangtag.export.errors import GateError

PROGRESS = "progress: "
"""Lines that a child writes to standard error are for the user if they begin so."""
_RUNTIME = "runtime"
_SECONDS = 600.0
_SECONDS_A_PICTURE = 2.0


def run_probe(target: Path, shown_as: Path) -> dict[str, Any]:
    """Run ``third_party.probe`` on a file, and return its findings.

    Args:
        shown_as: the file's name in error messages.

    Raises:
        GateError: the file is refused, ends the process, or gives no answer.
    """
    return _run("probe", target, shown_as, target, _RUNTIME, _SECONDS, str)


def run_pictures(
    folder: Path, request: Mapping[str, Any], shown_as: Path, progress: Callable[[str], object] = str
) -> dict[str, Any]:
    """Run ``third_party.pictures`` in a folder that has the files of the request, and return its findings.

    Raises:
        GateError: as ``run_probe`` does, or a picture cannot be read, or the answers differ.
    """
    (folder / "pictures.json").write_text(json.dumps(request), encoding="utf-8")
    seconds = _SECONDS + _SECONDS_A_PICTURE * len(request["pictures"])
    return _run("pictures", folder, shown_as, folder / str(request["file"]), "pictures", seconds, progress)


def _run(
    module: str,
    argument: Path,
    shown_as: Path,
    file: Path,
    check: str,
    seconds: float,
    progress: Callable[[str], object],
) -> dict[str, Any]:
    def follow(line: str) -> None:
        if line.startswith(PROGRESS):
            progress(line.removeprefix(PROGRESS))

    try:
        findings = child_process.run(f"hangtag.export.third_party.{module}", argument, seconds, follow)
    except child_process.ChildAbortedError as error:
        raise GateError(check, f"ONNX Runtime ends the process (signal {error.signal}) on {shown_as}.") from error
    except child_process.ChildFailedError as error:
        raise GateError(check, f"running {shown_as} failed: {error}.") from error
    if "refused" in findings:
        raise GateError(check, findings["refused"].replace(str(file), str(shown_as)))
    return findings
