"""Run the gate's checks on a classifier's file in another precision against its own FP32 file. Needs no torch.

The FP32 file has passed the gate against PyTorch, so its answers stand for PyTorch's.
"""

from pathlib import Path

import numpy as np
import onnx

from hangtag.export.arrays import Array
from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.check import AGREEMENT, CONTRACT, STRUCTURE, PassedCheck
from hangtag.export.gate.checks import agreement, batching, calibration, cuda, empty_batch, logits, structure
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.gate.runtime_answers import REAL
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

AGAINST = "the FP32 file"


def prove(original: Path, path: Path, model: onnx.ModelProto, data: GateData, *, precision: str) -> Proof:
    """Take the file at ``path`` through every check that applies to a classifier.

    Args:
        original: the file in FP32, with the outputs ``logits`` and ``probabilities``.
        model: the parsed content of the file at ``path``, so that it is not parsed again.
        data: test images with their classes.

    Raises:
        GateError: a check fails; the message names the check and the worst image.
    """
    tolerances = TOLERANCES[precision]
    checks = [structure.check(model, path.stat().st_size / 1e6)]
    try:
        runtime, reference = Runtime(path, provider="cpu"), Runtime(original, provider="cpu")
    except ModelLoadError as error:
        raise GateError(STRUCTURE, f"{error}.") from error
    if (runtime.signature.inputs, runtime.signature.outputs) != (
        reference.signature.inputs,
        reference.signature.outputs,
    ):
        raise GateError(CONTRACT, f"the file's inputs or outputs are not those of {AGAINST}.")
    checks.append(PassedCheck(CONTRACT, f"names, datatypes and shapes of {AGAINST}"))

    artificial = runtime_answers.artificial_images(*data.images.shape[1:])
    images = {REAL: data.images} | artificial
    expected = {kind: runtime_answers.answer(reference, pixels) for kind, pixels in images.items()}
    spread = float(np.ptp(expected[REAL]["logits"]))
    temperature = float(reference.signature.metadata.get("temperature", "1"))

    def activation(scores: Array) -> Array:
        return runtime_answers.softmax(scores / temperature)

    checks.append(logits.check(runtime, images, expected, tolerances, spread, activation, AGAINST))
    answered = runtime_answers.answer(runtime, data.images, check=AGREEMENT)
    assert data.classes is not None
    checks.append(agreement.check(answered["logits"], expected[REAL]["logits"], data.classes, tolerances, AGAINST))
    checks.append(calibration.check(answered, data.classes))
    other_images = np.concatenate([data.images[-32:], *(pixels[:16] for pixels in artificial.values())])
    checks.append(batching.check(runtime, data.images, other_images, tolerances, spread))
    checks.append(empty_batch.check(path))
    checks.append(cuda.check(path, data.images, expected[REAL], tolerances, spread, ()))
    return Proof(precision, checks, expected[REAL], answered, against="fp32 file")
