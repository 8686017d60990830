"""Asking many files, each in a process of its own that does not start Python anew: what fuzzing has time for."""

import importlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

from hangtag.export import child_process as child

ASKS = {"hangtag.export.foreign.probe": "probe", "hangtag.export.gate.checks.empty_batch": "ask"}
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["__main__", *ASKS])


def ask(module: str, path: Path, seconds: float) -> dict[str, Any]:
    """As hangtag.export.child_process.ask, but for how the process starts."""
    ours, theirs = _SERVER.Pipe(duplex=False)
    with ours:
        process = _SERVER.Process(target=_answer, args=(module, path, theirs))
        process.start()
        theirs.close()
        try:
            if not ours.poll(seconds):
                raise child.ChildFailedError(f"there was no answer within {seconds:g} s")
            answer: dict[str, Any] = json.loads(ours.recv())
        except EOFError:
            process.join()
            assert process.exitcode is not None
            if process.exitcode >= 0:
                raise child.ChildFailedError(f"the process ended with exit code {process.exitcode}") from None
            raise child.ChildEndedError(-process.exitcode) from None
        finally:
            process.kill()
            process.join()
    return answer


def _answer(module: str, path: Path, to: Any) -> None:
    to.send(json.dumps(getattr(importlib.import_module(module), ASKS[module])(path)))
