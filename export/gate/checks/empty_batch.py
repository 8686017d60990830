"""Find out what ONNX Runtime does with a batch of 0 of a file.

ONNX Runtime aborts the whole process on an LSTM with a batch of 0, so a child process runs it.
"""

from pathlib import Path

import numpy as np

from hangtag.export import child_process
from hangtag.export.errors import GateError
from hangtag.export.gate.check import EMPTY_BATCH, PassedCheck
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.arrays import dtype_of
from hangtag.serving.server.runtime.session import Runtime


def check(path: Path) -> PassedCheck:
    """Run the file on a batch of 0 in a child process.

    An aborted child is no failure: the server refuses an empty batch before its runtime sees it.

    Raises:
        GateError: the answer has rows, or the child fails otherwise than by a signal.
    """
    try:
        outcome = child_process.run(_run_empty_batch, path, shown_as=path, check=EMPTY_BATCH, seconds=120)
    except child_process.ChildAbortedError:
        summary = "the runtime ends the process on an empty batch, which the server refuses first"
        return PassedCheck(EMPTY_BATCH, summary, {"outcome": "aborted"})
    return PassedCheck(EMPTY_BATCH, f"an empty batch is {outcome}", {"outcome": outcome})


def _run_empty_batch(path: Path) -> str:
    """Run the file on a batch of 0 in this process: whether that is answered or refused."""
    runtime = Runtime(path, provider="cpu")
    inputs = {
        spec.name: np.zeros([0, *(1 if size is None else size for size in spec.shape[1:])], dtype_of(spec))
        for spec in runtime.signature.inputs
    }
    try:
        outputs = runtime.run(inputs)
    except InferenceError:
        return "refused"
    if any(len(output) for output in outputs.values()):
        shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
        raise GateError(EMPTY_BATCH, f"a batch of 0 is answered with {shapes}.")
    return "answered"
