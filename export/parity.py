"""Does the exported file answer as the PyTorch network does, in the runtime that will serve it?

Here for a classifier of one label; path_parity.py and threshold_parity.py for sets of labels.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.errors import ParityError
from export.served import Classifier, Served
from serving.server.runtime import Runtime
from serving.signature import Signature
from training.data import Split
from training.metrics import Evaluation, evaluate

BATCH_SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-4
"""Largest allowed difference of a logit in FP32: the two compute the same sums in another order, no more."""

Pixels = npt.NDArray[np.uint8]  # [n, height, width]
Array = npt.NDArray[Any]
Answers = dict[str, Array]  # the first axis is the image


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit per batch size, and the served file's figures on the whole test set."""

    max_difference: dict[int, float]
    test: Evaluation

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        proof = {
            "against": "pytorch",
            "tolerance": TOLERANCE,
            "max_logit_difference": {str(size): value for size, value in self.max_difference.items()},
        }
        return {"test_accuracy": f"{self.test.accuracy:.4f}", "parity": json.dumps(proof)}

    def __str__(self) -> str:
        batches = ", ".join(map(str, self.max_difference))
        return (
            f"logits within {max(self.max_difference.values()):.1e} of PyTorch at batch {batches}; "
            f"test accuracy {self.test.accuracy:.2%}, every answer the same"
        )


def verify(classifier: Classifier, path: Path, test: Split) -> Parity:
    """Compare names and shapes, then real images at every batch size of BATCH_SIZES, then the whole test set's classes.

    Raises ParityError, naming the batch size and the worst image, when the file at path differs from the network.
    """
    runtime = Runtime(path, provider="cpu")
    require_contract(runtime.signature, classifier)
    expected = answers(classifier, test.images)
    require_finite(expected["logits"])
    differences = compare(runtime, expected, test.images)
    classes = expected["logits"].argmax(axis=1)
    logits = run_in_batches(runtime, test.images)["logits"]
    disagreeing = np.flatnonzero(logits.argmax(axis=1) != classes)
    # Where two classes are level within the tolerance either answer is right.
    wrong = [int(image) for image in disagreeing if np.ptp(np.sort(expected["logits"][image])[-2:]) > TOLERANCE]
    if wrong:
        raise ParityError(
            f"the exported file gives another class than PyTorch for {len(wrong)} of {len(test)} test images, "
            f"first for image {wrong[0]}. Nothing was published."
        )
    return Parity(differences, evaluate(logits, test.classes))


def require_contract(signature: Signature, served: Served) -> None:
    """Raises ParityError when the file's inputs and outputs are not those of what is served."""
    if (signature.inputs, signature.outputs) != (served.inputs, served.outputs):
        found, wanted = (
            "; ".join(map(str, specs))
            for specs in (signature.inputs + signature.outputs, served.inputs + served.outputs)
        )
        raise ParityError(f"the exported file has {found}; expected {wanted}. Nothing was published.")


def require_finite(answers: Array) -> None:
    """Raises ParityError when the network's own answers [n, any] are no numbers."""
    broken = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if broken.size:
        raise ParityError(
            f"the network's own outputs are not finite for {broken.size} of {len(answers)} test images, first for "
            f"image {broken[0]}: its training went wrong. Nothing was published."
        )


def answers(served: Served, images: Pixels, batch_size: int = 500) -> Answers:
    """What PyTorch answers, by output, to uint8 images [n, height, width]."""
    with torch.inference_mode():
        batches = [served(torch.tensor(part)) for part in _batches(images, batch_size)]
    columns = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return {spec.name: column for spec, column in zip(served.outputs, columns, strict=True)}


def run_in_batches(runtime: Runtime, images: Pixels, batch_size: int = 64) -> Answers:
    """What the file answers, by output, to uint8 images [n, height, width]."""
    batches = [runtime.run({"image": part}) for part in _batches(images, batch_size)]
    return {name: np.concatenate([outputs[name] for outputs in batches]) for name in batches[0]}


def compare(runtime: Runtime, expected: Answers, images: Pixels) -> dict[int, float]:
    """The largest difference of a logit over four batches of real images, by batch size.

    Raises ParityError where logits or probabilities differ by more than the tolerance.
    """
    return {size: _worst(runtime, expected, images, size) for size in BATCH_SIZES}


def _batches(images: Pixels, size: int) -> Iterator[Pixels]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _worst(runtime: Runtime, expected: Answers, images: Pixels, batch_size: int) -> float:
    worst = 0.0
    for start in range(0, min(4 * batch_size, len(images)), batch_size):
        outputs = runtime.run({"image": images[start : start + batch_size]})
        for name in ("logits", "probabilities"):
            _require_close(name, outputs[name], expected[name][start : start + batch_size], batch_size, start)
        logits = expected["logits"][start : start + batch_size]
        worst = max(worst, float(np.abs(outputs["logits"] - logits).max()))
    return worst


def _require_close(name: str, got: Array, wanted: Array, batch_size: int, start: int) -> None:
    if got.shape != wanted.shape:
        raise ParityError(
            f"batch {batch_size}: {name} have shape {list(got.shape)}, expected {list(wanted.shape)}. "
            "Nothing was published."
        )
    difference = np.abs(got - wanted)
    if not difference.max() <= TOLERANCE:  # written so that NaN fails
        image = int(np.nan_to_num(difference, nan=np.inf).max(axis=1).argmax())
        raise ParityError(
            f"batch {batch_size}: {name} differ from PyTorch's by {difference.max():.2g}, more than the allowed "
            f"{TOLERANCE:g}; worst at test image {start + image}. Nothing was published."
        )
