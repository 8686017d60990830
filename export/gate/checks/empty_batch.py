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

_SECONDS = 120.0


def check(path: Path) -> PassedCheck:
    """Run the file on a batch of 0 in a child process.

    An aborted child is no failure: the server refuses an empty batch before its runtime sees it.

    Raises:
        GateError: the answer has rows, or the child fails otherwise than by a signal.
    """
    try:
        answer = child_process.call(f"{__name__}:{run_empty_batch.__name__}", _SECONDS, path=str(path))
    except child_process.ChildAbortedError:
        summary = "the runtime ends the process on an empty batch, which the server refuses first"
        return PassedCheck(EMPTY_BATCH, summary, {"outcome": "aborted"})
    except child_process.ChildFailedError as error:
        raise GateError(EMPTY_BATCH, f"running a batch of 0 failed: {error}.") from error
    if "refused" in answer:
        raise GateError(EMPTY_BATCH, answer["refused"])
    if answer["outcome"] == "malformed":
        raise GateError(EMPTY_BATCH, f"a batch of 0 is answered with {answer['detail']}.")
    return PassedCheck(EMPTY_BATCH, f"an empty batch is {answer['outcome']}", {"outcome": answer["outcome"]})


def run_empty_batch(path: str) -> dict[str, str]:
    """Run the file on a batch of 0 in this process.

    Returns:
        ``outcome``: answered, refused, or malformed; ``detail``: the runtime's message, or the shapes of the answer.
    """
    runtime = Runtime(Path(path), provider="cpu")
    inputs = {
        spec.name: np.zeros([0, *(1 if size is None else size for size in spec.shape[1:])], dtype_of(spec))
        for spec in runtime.signature.inputs
    }
    try:
        outputs = runtime.run(inputs)
    except InferenceError as error:
        return {"outcome": "refused", "detail": str(error)}
    shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
    is_empty = all(len(output) == 0 for output in outputs.values())
    return {"outcome": "answered" if is_empty else "malformed", "detail": shapes}
