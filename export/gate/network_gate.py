"""Run all checks on a network's file against the network in PyTorch. The first check that fails stops the export."""

from pathlib import Path

import numpy as np
import onnx

from hangtag.export.arrays import Answers, Array
from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.check import AGREEMENT, PARITY, STRUCTURE
from hangtag.export.gate.checks import (
    agreement,
    batching,
    calibration,
    contract,
    cuda,
    empty_batch,
    label_path,
    label_threshold,
    logits,
    structure,
)
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.gate.runtime_answers import REAL
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.network import pytorch_answers
from hangtag.export.network.served_network import LabelPath, LabelThreshold, ServedNetwork, SingleLabel
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

_ACTIVATIONS = {"softmax": runtime_answers.softmax, "sigmoid": runtime_answers.sigmoid}


def prove(
    served: ServedNetwork,
    path: Path,
    model: onnx.ModelProto,
    data: GateData,
    *,
    precision: str = "fp32",
) -> Proof:
    """Take the file at ``path`` through every check that applies to this kind of network.

    Args:
        served: the network in PyTorch, in evaluation mode.
        model: the parsed content of the file, so that it is not parsed again.

    Raises:
        GateError: a check fails; the message names the check and the worst image.
    """
    tolerances = TOLERANCES[precision]
    checks = [structure.check(model, path.stat().st_size / 1e6)]
    try:
        runtime = Runtime(path, provider="cpu")
    except ModelLoadError as error:
        raise GateError(STRUCTURE, f"{error}.") from error
    checks.append(contract.check(runtime.signature, served))

    artificial = runtime_answers.artificial_images(*served.image.shape)
    images = {REAL: data.images} | artificial
    expected = {kind: pytorch_answers.answer(served, pixels) for kind, pixels in images.items()}
    _require_finite(expected[REAL])
    spread = float(np.ptp(expected[REAL]["logits"])) if "logits" in expected[REAL] else 0.0

    ties: frozenset[int] = frozenset()
    if isinstance(served, LabelPath):
        parity, ties = label_path.check(served, runtime, images, expected, tolerances)
    else:
        activation = _ACTIVATIONS[served.activation]
        parity = logits.check(
            runtime, images, expected, tolerances, spread, lambda scores: activation(scores / served.temperature)
        )
    checks.append(parity)
    answered = runtime_answers.answer(runtime, data.images, check=AGREEMENT)
    if isinstance(served, SingleLabel):
        assert data.classes is not None
        checks.append(agreement.check(answered["logits"], expected[REAL]["logits"], data.classes, tolerances))
        checks.append(calibration.check(answered, data.classes, served.temperature, data.logits_before))
    if isinstance(served, LabelThreshold):
        probabilities, expected_probabilities = (answers["probabilities"] for answers in (answered, expected[REAL]))
        checks.append(label_threshold.check(probabilities, expected_probabilities, served.threshold, tolerances))

    other_images = np.concatenate([data.images[-32:], *(pixels[:16] for pixels in artificial.values())])
    checks.append(batching.check(runtime, data.images, other_images, tolerances, spread, ties))
    checks.append(empty_batch.check(path))
    checks.append(cuda.check(path, data.images, expected[REAL], tolerances, spread, ties))
    return Proof(precision, checks, expected[REAL], answered)


def _require_finite(expected: Answers) -> None:
    """Raise GateError if the network's own answers are NaN or infinite."""
    numbers: Array = np.column_stack([value for value in expected.values() if np.issubdtype(value.dtype, np.floating)])
    broken = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if broken.size:
        raise GateError(
            PARITY,
            f"the network's own outputs are not finite for {broken.size} of {len(numbers)} test images, first for "
            f"image {broken[0]}: its training went wrong.",
        )
