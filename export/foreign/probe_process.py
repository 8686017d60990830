"""Asking somebody else's file in a process of its own."""

from pathlib import Path
from typing import Any

from hangtag.export import child_process as child
from hangtag.export.errors import GateError

_SECONDS = 600.0


def ask(target: Path, called: Path) -> dict[str, Any]:
    """What hangtag.export.foreign.probe finds. called: the file's name in messages.

    Raises GateError for a file that is refused, that ends the process, or that does not answer.
    """
    try:
        found = child.ask("hangtag.export.foreign.probe", target, _SECONDS)
    except child.ChildEndedError as error:
        raise GateError("runtime", f"ONNX Runtime ends the process (signal {error.signal}) on {called}.") from error
    except child.ChildFailedError as error:
        raise GateError("runtime", f"asking about {called} failed: {error}.") from error
    if "refused" in found:
        raise GateError("runtime", found["refused"].replace(str(target), str(called)))
    return found
