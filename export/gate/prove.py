"""Run all checks that compare a file with its network. The first check that fails stops the export."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from hangtag.export.errors import GateError
from hangtag.export.file.onnx_model import operators
from hangtag.export.gate import batching, label_checks, parity
from hangtag.export.gate.check import AGREEMENT, CONTRACT, PARITY, STRUCTURE, PassedCheck
from hangtag.export.gate.network_answers import REAL, answer, artificial_images, load, sigmoid, softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.network_arrays import Answers, Array, Pixels
from hangtag.serving.signature import Signature
from hangtag.training.data.dataset import Classes

if TYPE_CHECKING:  # 'hangtag import' uses this module without torch
    from hangtag.export.network import ServedNetwork


def prove(
    network: "ServedNetwork",
    path: Path,
    model: onnx.ModelProto,
    images: Pixels,
    classes: Classes | None,
    *,
    precision: str,
    recorded: tuple[float, int] | None = None,
    logits_before: Array | None = None,
) -> tuple[list[PassedCheck], Answers]:
    """Run every check that applies to this kind of network on the file at ``path``.

    Returns the checks that the file passed, and PyTorch's answers to the images.

    Args:
        network: the network whose answers the file must match, in evaluation mode.
        path: the file.
        model: the file's parsed content, so that the file is not parsed again.
        images: test images.
        classes: the true class of each image; None if images have several labels.
        precision: the file's precision, which determines how exact the file must be.
        recorded: the test accuracy that the run recorded, and the number of test images; None without such a record.
        logits_before: the logits [n, labels] of the file before a temperature was folded into it; None without one.

    Raises:
        GateError: a check fails. The message names the check and the worst image.
    """
    tolerances = TOLERANCES[precision]
    checks = [check_structure(model, path.stat().st_size / 1e6)]
    runtime = load(path)
    checks.append(_contract(runtime.signature, network))

    artificial = artificial_images(*images.shape[1:])
    kinds = {REAL: images} | artificial
    expected = {kind: network.answer(pixels) for kind, pixels in kinds.items()}
    right = expected[REAL]
    _require_finite(right)
    spread = float(np.ptp(right["logits"])) if "logits" in right else 0.0

    def activation(scores: Array) -> Array:
        return {"softmax": softmax, "sigmoid": sigmoid}[network.activation](scores / network.temperature)

    own = None if "path" in right else activation
    checks.append(parity.check(runtime, kinds, expected, tolerances, spread, own))
    answered = answer(runtime, images, check=AGREEMENT)
    if classes is not None:
        if recorded is not None:
            label_checks.require_recorded(right["logits"], classes, recorded)
        scores = answered["logits"], right["logits"]
        checks.append(label_checks.check_labels(*scores, classes, tolerances))
        checks.append(label_checks.check_calibration(answered, classes, network.temperature, logits_before))
    elif network.threshold is not None:
        sets = answered["probabilities"], right["probabilities"]
        checks.append(label_checks.check_sets(*sets, network.threshold, tolerances))

    other_images = np.concatenate([images[-32:], *(pixels[:16] for pixels in artificial.values())])
    checks.append(batching.check(runtime, images, other_images, tolerances, spread))
    checks.append(parity.check_cuda(path, images, right, tolerances, spread))
    return checks, right


def check_structure(model: onnx.ModelProto, megabytes: float, *, strict: bool = True) -> PassedCheck:
    """Run ONNX's checker. If ``strict``, also run shape inference, which stops at the first contradiction.

    Args:
        megabytes: the size of the model's file, for the summary.

    Raises:
        GateError: the checker or the shape inference rejects the model.
    """
    try:
        onnx.checker.check_model(model, full_check=strict)
        if strict:
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(STRUCTURE, f"ONNX's checker refuses the file: {' '.join(str(error).split())}.") from error
    counts = operators(model)
    return PassedCheck(
        STRUCTURE,
        f"valid ONNX, {counts.total()} nodes, {megabytes:.2f} MB",
        {
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
            "nodes": counts.total(),
            "operators": dict(sorted(counts.items())),
            "megabytes": round(megabytes, 3),
        },
    )


def _contract(signature: Signature, network: "ServedNetwork") -> PassedCheck:
    """Compare the names, datatypes and shapes of the file's inputs and outputs with the network's."""
    actual, expected = signature.inputs + signature.outputs, network.inputs + network.outputs
    if (signature.inputs, signature.outputs) != (network.inputs, network.outputs):
        has, wanted = ("; ".join(map(str, specs)) for specs in (actual, expected))
        is_free = all(spec.shape[:1] == (None,) for spec in actual)
        remedy = (
            " The batch size must stay free: the network's code must not convert x.shape[0] to a number, as int() and "
            "range() do. Change the code, and train the network again."
        )
        raise GateError(CONTRACT, f"the file has {has}; expected {wanted}.{'' if is_free else remedy}")
    if not signature.batched:
        raise GateError(CONTRACT, "the first axis is not free in every input and output, so nothing can be batched.")
    return PassedCheck(CONTRACT, "names, datatypes and free batch axis are as expected")


def _require_finite(expected: Answers) -> None:
    """Raise GateError if the network's own answers are NaN or infinite."""
    numbers: Array = np.column_stack([value for value in expected.values() if np.issubdtype(value.dtype, np.floating)])
    broken = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if broken.size:
        raise GateError(
            PARITY,
            f"the network's own outputs are not finite for {broken.size} of {len(numbers)} test images, first for "
            f"image {broken[0]}, so its training went wrong.",
        )
