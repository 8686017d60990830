"""Run all checks on a file against what it must answer like. The first check that fails stops the export."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate import agreement, batching, parity, structure
from hangtag.export.gate.check import AGREEMENT, CONTRACT, PARITY, PassedCheck
from hangtag.export.gate.reference import REAL, Reference, answer, artificial_images, load
from hangtag.export.gate.speed import Speed
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.signature import Signature
from hangtag.training.data.dataset import Classes


@dataclass(frozen=True)
class Proof:
    """The checks that a file passed, how fast it is, and how PyTorch answered the gate's real images."""

    precision: str
    checks: Sequence[PassedCheck]
    expected: Answers
    """PyTorch's answers, or those of the FP32 file."""
    speed: Speed | None = None
    against: str = "pytorch"
    """What the file was compared with."""

    def figures(self, name: str) -> dict[str, object]:
        """The figures of the check with this name; empty if it was not run."""
        return next((dict(check.figures) for check in self.checks if check.name == name), {})

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        gate = {"precision": self.precision} | {check.name: dict(check.figures) for check in self.checks}
        metadata = {"gate": json.dumps(gate), "parity": json.dumps(self._parity())}
        if (accuracy := self.figures(AGREEMENT).get("accuracy")) is not None:
            metadata["test_accuracy"] = f"{accuracy:.4f}"
        if self.speed is not None:
            metadata["speed"] = json.dumps(self.speed.figures)
        return metadata

    def _parity(self) -> dict[str, object]:
        """In short: how far the answers to real images are from PyTorch's, by batch size."""
        figures = self.figures(PARITY)
        parity: dict[str, object] = {
            "against": self.against,
            "tolerance": figures["limit"],
            "images": len(next(iter(self.expected.values()))),
        }
        for key in ("max_logit_difference", "max_probability_difference"):
            if isinstance(by_kind := figures.get(key), dict):
                parity[key] = by_kind[REAL]
        if "ties" in figures:
            parity["ties"] = figures["ties"]
        return parity

    def __str__(self) -> str:
        return "; ".join(check.summary for check in self.checks)


def prove(
    reference: Reference,
    path: Path,
    model: onnx.ModelProto,
    images: Pixels,
    classes: Classes | None,
    *,
    precision: str,
    logits_before: Array | None = None,
) -> Proof:
    """Take the file at ``path`` through every check that applies to this kind of network.

    Args:
        reference: what the file must answer like.
        path: the file.
        model: its parsed content, so that it is not parsed again.
        images: test images.
        classes: their true classes, where each has one label.
        precision: of the file, which says how exact it must be.
        logits_before: where a temperature was folded into the file, the logits [n, labels] of the file without it.

    Raises:
        GateError: a check fails; the message names the check and the worst image.
    """
    tolerances = TOLERANCES[precision]
    checks = [structure.check(model, path.stat().st_size / 1e6)]
    runtime = load(path)
    checks.append(_contract(runtime.signature, reference))

    artificial = artificial_images(*images.shape[1:])
    kinds = {REAL: images} | artificial
    expected = {kind: reference.answer(pixels) for kind, pixels in kinds.items()}
    right = expected[REAL]
    _require_finite(right)
    spread = float(np.ptp(right["logits"])) if "logits" in right else 0.0

    def activation(scores: Array) -> Array:
        return reference.activation(scores / reference.temperature)

    if "path" in right:
        checked = parity.check_paths(runtime, kinds, expected, tolerances)
    else:
        checked = parity.check_logits(runtime, kinds, expected, tolerances, spread, activation, reference.name)
    checks.append(checked)
    answered = answer(runtime, images, check=AGREEMENT)
    if classes is not None:
        scores = answered["logits"], right["logits"]
        checks.append(agreement.check_labels(*scores, classes, tolerances, reference.name))
        checks.append(agreement.check_calibration(answered, classes, reference.temperature, logits_before))
    elif reference.threshold is not None:
        sets = answered["probabilities"], right["probabilities"]
        checks.append(agreement.check_sets(*sets, reference.threshold, tolerances))

    other_images = np.concatenate([images[-32:], *(pixels[:16] for pixels in artificial.values())])
    checks.append(batching.check(runtime, images, other_images, tolerances, spread))
    checks.append(batching.check_empty(path))
    checks.append(parity.check_cuda(path, images, right, tolerances, spread))
    return Proof(precision, checks, right, against=reference.key)


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
