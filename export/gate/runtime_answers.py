"""Asking a file: images in, every output out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.export.errors import GateError
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.session import Runtime

Pixels = npt.NDArray[np.uint8]  # [n, height, width]
Array = npt.NDArray[Any]
Answers = Mapping[str, Array]  # by output; the first axis is the image

REAL = "test"
"""What real images are called where kinds of images are told apart."""
_ARTIFICIAL = 64


def of_file(runtime: Runtime, images: Pixels, batch_size: int = 64, check: str = "parity") -> Answers:
    """What a file with one input answers, by output, to uint8 images [n, height, width].

    check: who asks. Raises GateError, which names that and the batch, when the runtime fails on them.
    """
    answered = [
        ask(runtime, part, check, f"image {number * batch_size}")
        for number, part in enumerate(batches(images, batch_size))
    ]
    return {name: np.concatenate([outputs[name] for outputs in answered]) for name in answered[0]}


def ask(runtime: Runtime, batch: Pixels, check: str, first: str) -> Answers:
    """What a file with one input answers to a batch. Raises GateError, which names its first image, when it fails."""
    (image,) = runtime.signature.inputs
    try:
        return runtime.run({image.name: batch})
    except InferenceError as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise GateError(check, f"the file loads, but fails at batch {len(batch)} from {first} on: {why}.") from error


def artificial(height: int, width: int) -> dict[str, Pixels]:
    """Images that no camera makes, 64 of each kind: black, white, and noise (the same at every call)."""
    shape = (_ARTIFICIAL, height, width)
    return {
        "black": np.zeros(shape, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "random": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
    }


def require_finite(answers: Array) -> None:
    """Raises GateError when the network's own answers [n, any] are no numbers."""
    broken = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if broken.size:
        raise GateError(
            "parity",
            f"the network's own outputs are not finite for {broken.size} of {len(answers)} test images, first for "
            f"image {broken[0]}: its training went wrong.",
        )


def softmax(logits: Array) -> Array:
    """Probabilities [n, labels] that share 1."""
    powers: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    shared: Array = powers / powers.sum(axis=1, keepdims=True)
    return shared


def sigmoid(logits: Array) -> Array:
    """Probabilities [n, labels], each by itself."""
    each: Array = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return each


def batches(images: Pixels, size: int) -> Iterator[Pixels]:
    """The images in parts of at most ``size``, in order."""
    return (images[start : start + size] for start in range(0, len(images), size))
