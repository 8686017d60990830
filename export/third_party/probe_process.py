"""Run the probe of somebody else's file in a child process, which the file may end."""

from pathlib import Path
from typing import Any

from hangtag.export import child_process
from hangtag.export.errors import GateError

_CHECK = "runtime"
_SECONDS = 600.0


def run_probe(target: Path, shown_as: Path) -> dict[str, Any]:
    """Run ``third_party.probe`` on a file, and return its findings.

    Args:
        shown_as: the file's name in error messages.

    Raises:
        GateError: the file is refused, ends the process, or gives no answer.
    """
    try:
        findings = child_process.run("hangtag.export.third_party.probe", target, _SECONDS)
    except child_process.ChildAbortedError as error:
        raise GateError(_CHECK, f"ONNX Runtime ends the process (signal {error.signal}) on {shown_as}.") from error
    except child_process.ChildFailedError as error:
        raise GateError(_CHECK, f"running {shown_as} failed: {error}.") from error
    if "refused" in findings:
        raise GateError(_CHECK, findings["refused"].replace(str(target), str(shown_as)))
    return findings
