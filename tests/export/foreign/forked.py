"""Run the export's child processes as forked ones, since tests have no time to start Python for each file.

They time a file in a single round: what is measured is no matter here.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hangtag.export.child_process import ChildAbortedError, ChildFailedError
from hangtag.export.foreign import timing
from hangtag.export.quantization import conversion
from tests.kit.forkserver import CONTEXT

FUNCTIONS = {
    "hangtag.export.foreign.probe": "probe",
    "hangtag.export.gate.checks.empty_batch": "run_empty_batch",
    "hangtag.export.quantization.conversion": "convert",
}


def run(module: str, path: Path, seconds: float, on_line: Callable[[str], object] = str) -> dict[str, Any]:
    """Replaces hangtag.export.child_process.run; what the child writes to standard error goes to the test's own."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    with receiver:
        process = CONTEXT.Process(target=_answer, args=(module, path, sender))
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
    timing._MIN_ROUNDS = conversion._MIN_ROUNDS = 1
    timing._SECONDS = conversion._SECONDS = 0.0
    sender.send(json.dumps(getattr(importlib.import_module(module), FUNCTIONS[module])(path)))
