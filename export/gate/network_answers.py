"""Run a file on real and artificial images, and compare its answers with the expected answers."""

from pathlib import Path

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import PARITY, STRUCTURE
from hangtag.export.network_arrays import Answers, Array, Pixels, batches
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

REAL = "test"
"""The kind of the real images; ``artificial_images`` returns the other kinds."""
_ARTIFICIAL_COUNT = 64


def load(path: Path) -> Runtime:
    """Load a file on the CPU. Raises GateError if ONNX Runtime refuses the file."""
    try:
        return Runtime(path, provider="cpu")
    except ModelLoadError as error:
        raise GateError(STRUCTURE, f"{error}.") from error


def answer(runtime: Runtime, images: Pixels, batch_size: int = 64, check: str = PARITY) -> Answers:
    """Run a file with one input on images, and return each output for all images.

    Args:
        check: the name of the check, for the error message.

    Raises:
        GateError: the runtime fails on a batch. The message names the check and the batch.
    """
    parts = [
        answer_batch(runtime, batch, check, f"from image {number * batch_size} on")
        for number, batch in enumerate(batches(images, batch_size))
    ]
    return {name: np.concatenate([outputs[name] for outputs in parts]) for name in parts[0]}


def answer_batch(runtime: Runtime, batch: Pixels, check: str, contents: str) -> Answers:
    """Run a file with one input on one batch.

    Args:
        check: the name of the check, for the error message.
        contents: a description of the batch's images, for the error message.

    Raises:
        GateError: the runtime fails on the batch.
    """
    (image,) = runtime.signature.inputs
    try:
        return runtime.run({image.name: batch})
    except InferenceError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise GateError(check, f"the file loads, but fails at batch {len(batch)} {contents}: {reason}.") from error


def artificial_images(*shape_of_one: int) -> dict[str, Pixels]:
    """Return 64 black images, 64 white images and 64 images of noise, with this shape, the same in every call."""
    shape = (_ARTIFICIAL_COUNT, *shape_of_one)
    return {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "random": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
    }


def tied_paths(one: Answers, other: Answers, limit: float) -> Array:
    """Return, for each image, whether the two answers differ although their label paths are equally likely, bool [n].

    If two paths are equally likely up to rounding, the beam search may choose either path, and both answers are right.
    If paths at the edge of the beam are equally likely, the search may keep either path. Both answers then have the
    same best path, but different probabilities of labels, which are sums over the beam.
    """
    if "path" not in one or any(one[name].shape != other[name].shape for name in one):
        return np.zeros(len(next(iter(one.values()))), dtype=bool)
    equally_likely = np.abs(one["path_probability"] - other["path_probability"]) <= limit
    differs = (np.abs(one["probabilities"] - other["probabilities"]) > limit).any(axis=1)
    tied: Array = ((one["path"] != other["path"]).any(axis=1) | differs) & equally_likely
    return tied


def worst_image(difference: Array) -> int:
    """Return the index of the image with the largest difference, from differences [n, ...]. NaN counts as
    infinity."""
    return int(np.nan_to_num(difference, nan=np.inf).reshape(len(difference), -1).max(axis=1).argmax())


def require_close(
    check: str,
    numbers: Array,
    expected: Array,
    limit: float,
    what: str,
    how: str,
    kind: str = REAL,
    tied: Array | None = None,
) -> float:
    """Return the largest difference between two arrays with a row for each image. ``kind`` describes the images.

    Args:
        tied: Whether the answers to an image may differ, bool [n]. Such images are left out.

    Raises:
        GateError: the difference exceeds the limit, or the shapes differ. The message begins with ``what`` and ``how``.
    """
    if numbers.shape != expected.shape:
        raise GateError(check, f"{what} have shape {list(numbers.shape)}, expected {list(expected.shape)}.")
    difference = np.abs(numbers.astype(np.float64) - expected)
    if tied is not None:
        difference[tied] = 0
    if not difference.max() <= limit:  # this comparison fails for NaN
        raise GateError(
            check,
            f"{what} {how} by {difference.max():.2g}, more than the allowed {limit:g}; worst at {kind} image "
            f"{worst_image(difference)}.",
        )
    return float(difference.max())


def softmax(logits: Array) -> Array:
    """Return probabilities [n, labels], whose sum is 1 for each image."""
    powers: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(logits: Array) -> Array:
    """Return probabilities [n, labels] that are independent of one another."""
    probabilities: Array = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return probabilities
