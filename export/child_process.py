"""Call one of hangtag's functions on a file in a child process, because loading a bad file can crash the process."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from hangtag.errors import UserError
from hangtag.export.errors import ExportError, GateError
from hangtag.serving.server.errors import InferenceError, ModelLoadError

T = TypeVar("T")
Progress = Callable[[str], object]
CONTEXT: Any = multiprocessing.get_context("spawn")
_parent: Connection | None = None
"""The connection to the parent process; None unless this is a child process."""


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
        shown_as: The file name that error messages show instead of any .onnx path among the arguments.
        check: The check that fails if the file cannot be run.
        seconds: The time limit, after which the child process is killed.
        progress: Called with each line that the child process reports.

    Raises:
        GateError: One of: the file cannot be loaded or run; it crashes the child process; the child process does not
            finish in time; the function raises this error.
        ExportError: the function raises another error that the user can correct.
    """
    end = time.monotonic() + seconds
    receiver, sender = CONTEXT.Pipe(duplex=False)
    call = pickle.dumps((function, arguments))
    process = CONTEXT.Process(target=_work, args=(sender, call, shown_as, check))
    try:
        process.start()
        sender.close()
        while receiver.poll(max(0.0, end - time.monotonic())):
            match receiver.recv():
                case str(line):
                    progress(line)
                case [answer, None]:
                    return answer  # type: ignore[no-any-return]  # the function's own result
                case [None, error]:
                    raise error
        raise GateError(check, f"working on {shown_as} failed: there was no answer within {seconds:g} s.")
    except EOFError:
        process.join()
        if process.exitcode < 0:
            reason = f"{shown_as} ended the process that worked on it (signal {-process.exitcode})."
        else:
            reason = f"working on {shown_as} failed: the process ended with exit code {process.exitcode}."
        raise GateError(check, reason) from None
    finally:  # also after Ctrl-C
        receiver.close()
        if process.pid is not None:  # None if Ctrl-C interrupted process.start()
            process.kill()
            process.join()


def report(line: str) -> None:
    """Show the user a line immediately. Call this function in a child process."""
    assert _parent is not None
    _parent.send(line)


def _work(parent: Connection, call: bytes, shown_as: Path, check: str) -> None:
    """Call the function, and send its result or its error to the parent. What the libraries print is not shown."""
    global _parent
    _parent = parent
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    function, arguments = pickle.loads(call)  # noqa: S301  (our own parent's)
    parent.send(_outcome(function, arguments, shown_as, check))


def _outcome(
    function: Callable[..., Any], arguments: tuple[Any, ...], shown_as: Path, check: str
) -> tuple[Any, ExportError | None]:
    """Return the function's result, or an error for the user."""

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
    except Exception as error:
        return None, GateError(check, f"working on {shown_as} failed: {reason(f'{type(error).__name__}: {error}')}")
