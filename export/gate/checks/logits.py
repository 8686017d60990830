"""Check that the file's logits are PyTorch's, at every batch size, on real and on artificial images.

For networks with the outputs ``logits`` and ``probabilities``; ``label_path`` compares networks without them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import PARITY, PassedCheck
from hangtag.export.gate.runtime_answers import REAL, answer_batch, worst_image
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.serving.server.runtime.session import Runtime

Activation = Callable[[Array], Array]


def check(
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    tolerances: Tolerances,
    spread: float,
    activation: Activation | None,
    against: str = "PyTorch",
) -> PassedCheck:
    """Compare up to four batches of each size, of each kind of images.

    Args:
        images: kind -> images, as ``artificial_images`` names the kinds.
        expected: kind -> PyTorch's answers.
        activation: turns logits into probabilities; None where it is unknown, then probabilities are not compared.
        against: what gave the expected answers, for the messages.

    Raises:
        GateError: a number differs; the message names the kind, the batch size and the worst image.
    """
    limit = tolerances.logit_limit(spread)
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    for kind, pixels in images.items():
        most = limit if kind == REAL or tolerances.artificial else float(np.finfo(np.float32).max)
        for size in BATCH_SIZES:
            for start in range(0, min(4 * size, len(pixels)), size):
                rows = slice(start, start + size)
                answers = answer_batch(runtime, pixels[rows], PARITY, f"{kind} image {start}")
                batch = _Batch(kind, size, start)
                difference = _compare_logits(answers["logits"], expected[kind]["logits"][rows], batch, most, against)
                worst[kind][str(size)] = max(worst[kind][str(size)], difference)
                _check_probabilities(answers, tolerances.probabilities, batch, activation)
    required = worst.values() if tolerances.artificial else [worst[REAL]]
    largest = max(max(by_size.values()) for by_size in required)
    return PassedCheck(
        PARITY,
        f"logits within {largest:.1e} of {against} at batch {', '.join(map(str, BATCH_SIZES))}",
        {"limit": limit, "spread": spread, "max_logit_difference": worst},
    )


class _Batch(NamedTuple):
    """Which images are compared, for error messages."""

    kind: str
    size: int
    start: int

    def __str__(self) -> str:
        return f"batch {self.size}" if self.kind == REAL else f"batch {self.size} of {self.kind} images"

    def worst(self, difference: Array) -> str:
        return f"worst at {self.kind} image {self.start + worst_image(difference)}"


def _compare_logits(logits: Array, expected: Array, batch: _Batch, limit: float, against: str) -> float:
    if logits.shape != expected.shape:
        raise GateError(PARITY, f"{batch}: logits have shape {list(logits.shape)}, expected {list(expected.shape)}.")
    difference = np.abs(logits - expected)
    if not difference.max() <= limit:  # written so that NaN fails
        raise GateError(
            PARITY,
            f"{batch}: logits differ from {against}'s by {difference.max():.2g}, more than the allowed {limit:g}; "
            f"{batch.worst(difference)}.",
        )
    return float(difference.max())


def _check_probabilities(answers: Answers, limit: float, batch: _Batch, activation: Activation | None) -> None:
    logits, probabilities = answers["logits"], answers["probabilities"]
    if probabilities.shape != logits.shape:
        raise GateError(
            PARITY, f"{batch}: probabilities have shape {list(probabilities.shape)}, expected {list(logits.shape)}."
        )
    if activation is None:
        return
    difference = np.abs(probabilities - activation(logits))
    if not difference.max() <= limit:
        raise GateError(
            PARITY,
            f"{batch}: probabilities are not those of the file's own logits: they differ by {difference.max():.2g}, "
            f"more than the allowed {limit:g}; {batch.worst(difference)}.",
        )
