"""Are the file's logits PyTorch's, at every batch size, on real images and on ones that no camera makes?

For networks with the outputs ``logits`` and ``probabilities``; label_path.py has its own.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import REAL, Answers, Array, Pixels
from hangtag.export.gate.tolerances import BATCH_SIZES, Rules
from hangtag.serving.server.runtime.session import Runtime

NAME = "parity"
Activation = Callable[[Array], Array]


def check(
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    rules: Rules,
    spread: float,
    activation: Activation | None,
) -> Check:
    """Compare up to four batches of each size of BATCH_SIZES of each kind of images with what PyTorch answered.

    activation: what makes probabilities of logits, where that is known. Raises GateError, which names the kind, the
    batch size and the worst image.
    """
    limit = rules.limit(spread)
    worst: dict[str, dict[int, float]] = {kind: dict.fromkeys(BATCH_SIZES, 0.0) for kind in images}
    for kind, pixels in images.items():
        for size in BATCH_SIZES:
            for start in range(0, min(4 * size, len(pixels)), size):
                part = slice(start, start + size)
                got = answers.ask(runtime, pixels[part], NAME, f"{kind} image {start}")
                where = _Place(kind, size, start)
                difference = _difference(got["logits"], expected[kind]["logits"][part], where, limit)
                worst[kind][size] = max(worst[kind][size], difference)
                _check_probabilities(got, rules.probabilities, where, activation)
    largest = max(max(by_size.values()) for by_size in worst.values())
    batches = ", ".join(map(str, BATCH_SIZES))
    return Check(
        NAME,
        f"logits within {largest:.1e} of PyTorch at batch {batches}",
        {
            "limit": limit,
            "spread": spread,
            "max_logit_difference": {
                kind: {str(size): value for size, value in by_size.items()} for kind, by_size in worst.items()
            },
        },
    )


class _Place:
    """Which images are compared, for a message."""

    def __init__(self, kind: str, size: int, start: int) -> None:
        self._kind, self._size, self._start = kind, size, start

    def __str__(self) -> str:
        return f"batch {self._size}" if self._kind == REAL else f"batch {self._size} of {self._kind} images"

    def image(self, difference: Array) -> str:
        """The image of the largest difference [n, any]; what is no number is largest."""
        row = int(np.nan_to_num(difference, nan=np.inf).max(axis=1).argmax())
        return f"worst at {self._kind} image {self._start + row}"


def _difference(got: Array, wanted: Array, where: _Place, limit: float) -> float:
    if got.shape != wanted.shape:
        raise GateError(NAME, f"{where}: logits have shape {list(got.shape)}, expected {list(wanted.shape)}.")
    difference = np.abs(got - wanted)
    if not difference.max() <= limit:  # written so that NaN fails
        raise GateError(
            NAME,
            f"{where}: logits differ from PyTorch's by {difference.max():.2g}, more than the allowed {limit:g}; "
            f"{where.image(difference)}.",
        )
    return float(difference.max())


def _check_probabilities(got: Answers, limit: float, where: _Place, activation: Activation | None) -> None:
    found = got["probabilities"]
    if found.shape != got["logits"].shape:
        raise GateError(
            NAME, f"{where}: probabilities have shape {list(found.shape)}, expected {list(got['logits'].shape)}."
        )
    if activation is None:
        return
    difference = np.abs(found - activation(got["logits"]))
    if not difference.max() <= limit:
        raise GateError(
            NAME,
            f"{where}: probabilities are not those of the file's own logits: they differ by {difference.max():.2g}, "
            f"more than the allowed {limit:g}; {where.image(difference)}.",
        )
