"""Call a function of ours on a file in a child process, since loading a file can end the process that does it.

The child is ``python -m hangtag.export.child_process MODULE:FUNCTION ARGUMENTS``, where ARGUMENTS is a file with the
function's arguments in JSON. What the function returns is JSON on the last line of the child's standard output.
"""

import importlib
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Thread
from typing import IO, Any

from hangtag.errors import UserError
from hangtag.export.errors import ExportError, GateError
from hangtag.serving.server.errors import InferenceError, ModelLoadError

Progress = Callable[[str], object]
_PROGRESS = "progress: "
"""Lines on the child's standard error that begin so are for the user."""
_SECONDS = 600.0


class ChildAbortedError(Exception):
    """A signal ended the child process."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"signal {signal}")
        self.signal = signal


class ChildFailedError(Exception):
    """The child process gave no answer in time, or ended without one."""


def run(
    function: Callable[..., dict[str, Any]],
    shown_as: Path,
    check: str,
    *,
    seconds: float = _SECONDS,
    progress: Progress = str,
    **arguments: Any,
) -> dict[str, Any]:
    """Call a function on somebody else's file in a child process, and judge how that ends.

    Args:
        function: One of a module of ours. It returns JSON values.
        shown_as: The file's name in error messages, in place of arguments that end in .onnx.
        check: The check that fails where the file cannot be run.
        seconds: After so many the child is ended.
        progress: Gets each line that the child reports, in a thread of its own.
        arguments: Of the function, by name; JSON values.

    Raises:
        GateError: the file cannot be loaded or run, ends the process or gives no answer, or the function raises it.
        ExportError: the function raises another error that the user can correct.
    """
    try:
        answer = call(f"{function.__module__}:{function.__name__}", seconds, progress, **arguments)
    except ChildAbortedError as error:
        raise GateError(check, f"{shown_as} ended the process that worked on it (signal {error.signal}).") from error
    except ChildFailedError as error:
        raise GateError(check, f"working on {shown_as} failed: {error}.") from error
    if "refused" not in answer:
        return answer
    reason: str = answer["refused"]
    for value in arguments.values():
        if isinstance(value, str) and value.endswith(".onnx"):
            reason = reason.replace(value, str(shown_as))
    if answer["of_the_user"]:
        raise ExportError(f"{reason} Nothing was published.")
    raise GateError(answer["check"] or check, reason)


def call(function: str, seconds: float, progress: Progress = str, **arguments: Any) -> dict[str, Any]:
    """Call MODULE:FUNCTION in a child process, and return what it returns.

    Returns:
        Where it raises an error that a user may meet: ``refused``, the message; ``check`` of a GateError; and
        ``of_the_user``, whether it is another UserError.

    Raises:
        ChildAbortedError: a signal ended the child.
        ChildFailedError: it gave no answer within ``seconds``, or ended without one.
    """
    lines = deque(["it wrote no message"], maxlen=1)  # the last line of a traceback names the exception

    def follow(stream: IO[str]) -> None:
        for line in stream:
            if line.startswith(_PROGRESS):
                progress(line.removeprefix(_PROGRESS).rstrip("\n"))
            elif line.strip():
                lines.append(line.strip())

    with TemporaryDirectory() as folder, TemporaryFile("w+", encoding="utf-8") as output:
        file = Path(folder, "arguments.json")
        file.write_text(json.dumps(arguments), encoding="utf-8")
        # -P keeps the working directory out of sys.path, so that a numpy.py that lies there is not run.
        command = [sys.executable, "-P", "-m", __name__, function, str(file)]
        with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            follower = Thread(target=follow, args=(process.stderr,))
            follower.start()
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise ChildFailedError(f"there was no answer within {seconds:g} s") from error
            finally:  # also after Ctrl-C
                process.kill()
                follower.join()
        output.seek(0)
        answer = output.read()
    if code < 0:
        raise ChildAbortedError(-code)
    try:
        parsed: dict[str, Any] = json.loads(answer.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise ChildFailedError(f"the process ended with exit code {code}: {lines[-1][:300]}") from error
    return parsed


def report(line: str) -> None:
    """In a child: give the user a line at once."""
    sys.stderr.write(f"{_PROGRESS}{line}\n")
    sys.stderr.flush()


def _answer(function: str, file: str) -> dict[str, Any]:
    module, _, name = function.partition(":")
    arguments = json.loads(Path(file).read_text(encoding="utf-8"))
    try:
        answer: dict[str, Any] = getattr(importlib.import_module(module), name)(**arguments)
    except GateError as error:
        return {"refused": error.reason, "check": error.check, "of_the_user": False}
    except UnicodeDecodeError as error:
        return {"refused": f"a name or a text in it is not UTF-8 ({error}).", "check": None, "of_the_user": False}
    except (UserError, ModelLoadError, InferenceError) as error:
        reason = f"{' '.join(str(error).split()).rstrip('.')}."
        return {"refused": reason, "check": None, "of_the_user": isinstance(error, UserError)}
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(*sys.argv[1:])) + "\n")
