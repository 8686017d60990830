"""Does the exported file answer as the PyTorch network does, in the runtime that will serve it?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from export.errors import ParityError
from serving.server.runtime import Runtime
from serving.signature import Signature, TensorSpec
from training.data import Images, Split
from training.metrics import Evaluation, evaluate
from training.models import CLASSES
from training.trainer import predict

BATCH_SIZES = (1, 2, 7, 64)
TOLERANCE = 1e-4
"""Largest allowed difference of a logit in FP32: the two compute the same sums in another order, no more."""

INPUTS = (TensorSpec("image", "UINT8", (None, 28, 28)),)
OUTPUTS = (TensorSpec("logits", "FP32", (None, CLASSES)), TensorSpec("probabilities", "FP32", (None, CLASSES)))

Logits = npt.NDArray[np.float32]  # [n, 10]


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit per batch size, and the served file's figures on the whole test set."""

    max_difference: dict[int, float]
    test: Evaluation


def verify(network: nn.Module, path: Path, test: Split) -> Parity:
    """Compare names and shapes, then real images at every batch size of BATCH_SIZES, then the whole test set's classes.

    Raises ParityError, naming the batch size and the worst image, when the file at path differs from the network.
    """
    runtime = Runtime(path, provider="cpu")
    _require_contract(runtime.signature)
    expected = predict(network, test.images)
    broken = np.flatnonzero(~np.isfinite(expected).all(axis=1))
    if broken.size:
        raise ParityError(
            f"the network's own outputs are not finite for {broken.size} of {len(test)} test images, first for image "
            f"{broken[0]}: its training went wrong. Nothing was published."
        )
    differences = {size: _worst(runtime, expected, test.images, size) for size in BATCH_SIZES}
    logits = run_in_batches(runtime, test.images)
    disagreeing = np.flatnonzero(logits.argmax(axis=1) != expected.argmax(axis=1))
    # Where two classes are level within the tolerance either answer is right.
    wrong = [int(image) for image in disagreeing if np.ptp(np.sort(expected[image])[-2:]) > TOLERANCE]
    if wrong:
        raise ParityError(
            f"the exported file gives another class than PyTorch for {len(wrong)} of {len(test)} test images, "
            f"first for image {wrong[0]}. Nothing was published."
        )
    return Parity(differences, evaluate(logits, test.classes))


def _require_contract(signature: Signature) -> None:
    if (signature.inputs, signature.outputs) != (INPUTS, OUTPUTS):
        found, wanted = (
            "; ".join(map(str, specs)) for specs in (signature.inputs + signature.outputs, INPUTS + OUTPUTS)
        )
        raise ParityError(f"the exported file has {found}; expected {wanted}. Nothing was published.")


def run_in_batches(runtime: Runtime, images: Images, batch_size: int = 64) -> Logits:
    """Logits [n, 10] of uint8 images [n, 28, 28]."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([runtime.run({"image": images[at : at + batch_size]})["logits"] for at in starts])


def _worst(runtime: Runtime, expected: Logits, images: Images, batch_size: int) -> float:
    """The largest difference over four batches of real images; probabilities must be the logits' softmax."""
    worst = 0.0
    for start in range(0, min(4 * batch_size, len(images)), batch_size):
        outputs = runtime.run({"image": images[start : start + batch_size]})
        logits = outputs["logits"]
        wanted = expected[start : start + batch_size]
        _require_close("logits", logits, wanted, batch_size, start)
        exponentials = np.exp(wanted - wanted.max(axis=1, keepdims=True))
        softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
        _require_close("probabilities", outputs["probabilities"], softmax, batch_size, start)
        worst = max(worst, float(np.abs(logits - wanted).max()))
    return worst


def _require_close(name: str, got: Logits, wanted: Logits, batch_size: int, start: int) -> None:
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
