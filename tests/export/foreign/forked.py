"""Run child processes that are forked from a prepared one, since fuzzing has no time to start Python for each file."""

import importlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

from hangtag.export.child_process import ChildAbortedError, ChildFailedError

FUNCTIONS = {"hangtag.export.foreign.probe": "probe", "hangtag.export.gate.checks.empty_batch": "run_empty_batch"}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["__main__", *FUNCTIONS])


def run(module: str, path: Path, seconds: float) -> dict[str, Any]:
    """Replaces hangtag.export.child_process.run."""
    receiver, sender = _SERVER.Pipe(duplex=False)
    with receiver:
        process = _SERVER.Process(target=_answer, args=(module, path, sender))
        process.start()
        sender.close()
        try:
            if not receiver.poll(seconds):
                raise ChildFailedError(f"there was no answer within {seconds:g} s")
            answer: dict[str, Any] = json.loads(receiver.recv())
        except EOFError:
            process.join()
            assert process.exitcode is not None
            if process.exitcode >= 0:
                raise ChildFailedError(f"the process ended with exit code {process.exitcode}") from None
            raise ChildAbortedError(-process.exitcode) from None
        finally:
            process.kill()
            process.join()
    return answer


def _answer(module: str, path: Path, sender: Any) -> None:
    sender.send(json.dumps(getattr(importlib.import_module(module), FUNCTIONS[module])(path)))
