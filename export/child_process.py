"""Call one of hangtag's functions on a file in a child process, because loading a bad file can crash the process.

The child process is ``python -m hangtag.export.child_process FOLDER MODULE:FUNCTION``. The folder holds the pickled
call, and later the pickled outcome. ``MODULE:FUNCTION`` is in the command only for people who list processes.
"""

import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO, Any, TypeVar

from hangtag.errors import UserError
from hangtag.export.errors import ExportError, GateError
from hangtag.serving.server.errors import InferenceError, ModelLoadError

T = TypeVar("T")
Progress = Callable[[str], object]
_PROGRESS = "progress: "
"""Prefix of lines on the child's standard error that are for the user."""
_CALL, _OUTCOME = "call", "outcome"


def run(
    function: Callable[..., T],
    *arguments: Any,
    shown_as: Path,
    check: str,
    seconds: float = 600.0,
    progress: Progress = str,
) -> T:
    """Call a function on a file in a child process, and return its result or raise its error.

    Args:
        function: A function at the top level of a module.
        arguments: The function's arguments.
        shown_as: The file name that error messages show instead of the path of each .onnx file among the arguments.
        check: The check that fails if the file cannot be run.
        seconds: The time limit, after which the child process is killed.
        progress: Called in a separate thread with each line that the child process reports.

    Raises:
        GateError: the file cannot be loaded or run, or crashes the child process, or the child process does not finish
            in time, or the function raises this error.
        ExportError: the function raises another error that the user can correct.
    """
    lines = deque(["it wrote no message"], maxlen=1)  # the last line of a traceback names the exception

    def follow(stream: IO[str]) -> None:
        for line in stream:
            if line.startswith(_PROGRESS):
                progress(line.removeprefix(_PROGRESS).rstrip("\n"))
            elif line.strip():
                lines.append(line.strip())

    with TemporaryDirectory() as folder:
        Path(folder, _CALL).write_bytes(pickle.dumps((function, arguments, shown_as, check)))
        # -P keeps the working directory out of sys.path, so that a numpy.py in it is not run.
        command = [sys.executable, "-P", "-m", __name__, folder, f"{function.__module__}:{function.__name__}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            follower = Thread(target=follow, args=(process.stderr,))
            follower.start()
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                raise GateError(
                    check, f"working on {shown_as} failed: there was no answer within {seconds:g} s."
                ) from error
            finally:  # also after Ctrl-C
                process.kill()
                follower.join()
        if code < 0:
            raise GateError(check, f"{shown_as} ended the process that worked on it (signal {-code}).")
        outcome = Path(folder, _OUTCOME)
        if not outcome.exists():
            reason = f"the process ended with exit code {code}: {lines[-1][:300]}"
            raise GateError(check, f"working on {shown_as} failed: {reason}.")
        answered: tuple[T, ExportError | None] = pickle.loads(outcome.read_bytes())  # noqa: S301  (our own child's)
    answer, refusal = answered
    if refusal is not None:
        raise refusal
    return answer


def report(line: str) -> None:
    """Show the user a line immediately. Call this function in a child process."""
    sys.stderr.write(f"{_PROGRESS}{line}\n")
    sys.stderr.flush()


def _outcome(
    function: Callable[..., Any], arguments: tuple[Any, ...], shown_as: Path, check: str
) -> tuple[Any, ExportError | None]:
    """Return the function's result, or an expected error of the function."""

    def reason(text: object) -> str:
        shown = f"{' '.join(str(text).split()).rstrip('.')}."
        for value in arguments:
            if isinstance(value, Path) and value.suffix == ".onnx":
                shown = shown.replace(str(value), str(shown_as))
        return shown

    try:
        return function(*arguments), None
    except GateError as error:
        return None, GateError(error.check, reason(error.reason))
    except UnicodeDecodeError:
        return None, GateError(check, "the file holds a name or a text that is not UTF-8.")
    except (ModelLoadError, InferenceError) as error:
        return None, GateError(check, reason(error))
    except UserError as error:
        return None, ExportError(f"{reason(error)} Nothing was published.")


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    _called = pickle.loads(Path(_folder, _CALL).read_bytes())  # noqa: S301  (our own parent's)
    Path(_folder, _OUTCOME).write_bytes(pickle.dumps(_outcome(*_called)))
