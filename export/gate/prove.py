"""Run all checks on a file against what it must answer like. The first check that fails stops the export."""

from pathlib import Path

import numpy as np
import onnx

from hangtag.export.arrays import Answers, Array
from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.check import AGREEMENT, CONTRACT, PARITY, PassedCheck
from hangtag.export.gate.checks import (
    agreement,
    batching,
    calibration,
    cuda,
    empty_batch,
    label_path,
    logits,
    structure,
)
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.gate.reference import Reference, load
from hangtag.export.gate.runtime_answers import REAL
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.signature import Signature


def prove(reference: Reference, path: Path, model: onnx.ModelProto, data: GateData, *, precision: str) -> Proof:
    """Take the file at ``path`` through every check that applies to this kind of network.

    Args:
        reference: what the file must answer like.
        path: the file.
        model: its parsed content, so that it is not parsed again.
        data: test images, with their classes where each has one label.
        precision: of the file, which says how exact it must be.

    Raises:
        GateError: a check fails; the message names the check and the worst image.
    """
    tolerances = TOLERANCES[precision]
    checks = [structure.check(model, path.stat().st_size / 1e6)]
    runtime = load(path)
    checks.append(_contract(runtime.signature, reference))

    artificial = runtime_answers.artificial_images(*data.images.shape[1:])
    images = {REAL: data.images} | artificial
    expected = {kind: reference.answer(pixels) for kind, pixels in images.items()}
    _require_finite(expected[REAL])
    spread = float(np.ptp(expected[REAL]["logits"])) if "logits" in expected[REAL] else 0.0

    def activation(scores: Array) -> Array:
        return reference.activation(scores / reference.temperature)

    ties: frozenset[int] = frozenset()
    if reference.perturbed is not None:
        parity, ties = label_path.check(reference.perturbed, runtime, images, expected, tolerances)
    else:
        parity = logits.check(runtime, images, expected, tolerances, spread, activation, reference.name)
    checks.append(parity)
    answered = runtime_answers.answer(runtime, data.images, check=AGREEMENT)
    if data.classes is not None:
        scores = answered["logits"], expected[REAL]["logits"]
        checks.append(agreement.check(*scores, data.classes, tolerances, reference.name))
        checks.append(calibration.check(answered, data.classes, reference.temperature, data.logits_before))
    elif reference.threshold is not None:
        sets = answered["probabilities"], expected[REAL]["probabilities"]
        checks.append(agreement.check_sets(*sets, reference.threshold, tolerances))

    other_images = np.concatenate([data.images[-32:], *(pixels[:16] for pixels in artificial.values())])
    checks.append(batching.check(runtime, data.images, other_images, tolerances, spread, ties))
    checks.append(empty_batch.check(path))
    checks.append(cuda.check(path, data.images, expected[REAL], tolerances, spread, ties))
    return Proof(precision, checks, expected[REAL], answered, against=reference.key)


def _contract(signature: Signature, reference: Reference) -> PassedCheck:
    """Compare names, datatypes and shapes of inputs and outputs."""
    actual, expected = signature.inputs + signature.outputs, reference.inputs + reference.outputs
    if (signature.inputs, signature.outputs) != (reference.inputs, reference.outputs):
        has, wanted = ("; ".join(map(str, specs)) for specs in (actual, expected))
        raise GateError(CONTRACT, f"the file has {has}; expected {wanted}.")
    if not signature.batched:
        raise GateError(CONTRACT, "the first axis is not free in every input and output, so nothing can be batched.")
    return PassedCheck(CONTRACT, "names, datatypes and free batch axis as they should be")


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
