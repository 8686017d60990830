"""Check that the exported beam search finds the paths that PyTorch's finds.

A beam search chooses: where two paths are tied up to rounding, either may go on, and the answers differ though nothing
is wrong. So a differing answer is accepted, and counted as a tie, if the PyTorch network itself gives it after its
weights were perturbed by about 1e-6 or 1e-5 of themselves. Every other difference is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import PARITY, PassedCheck
from hangtag.export.gate.reference import Answer
from hangtag.export.gate.runtime_answers import REAL, answer
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.serving.server.runtime.session import Runtime

Perturbed = Callable[[], Iterator[Answer]]


class Beams(NamedTuple):
    """The answers to n images. The fields have the names and types of the file's outputs."""

    path: Array
    path_probability: Array
    probabilities: Array

    def difference(self, other: "Beams") -> Array:
        """The largest difference of a probability for each image, [n]; infinite where the paths differ."""
        of_labels = np.abs(self.probabilities - other.probabilities).max(axis=1)
        largest = np.maximum(of_labels, np.abs(self.path_probability - other.path_probability))
        return np.where((self.path == other.path).all(axis=1), largest, np.inf)

    def rows(self, indices: Any) -> "Beams":
        return Beams(*(part[indices] for part in self))


def check(
    perturbed: Perturbed,
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    tolerances: Tolerances,
) -> tuple[PassedCheck, frozenset[int]]:
    """Compare all images of each kind at the largest batch size, and four batches at each other size.

    Args:
        perturbed: the network's answers after small changes of its weights.
        runtime: the file.
        images: kind -> images [n, 64, 64].
        expected: kind -> PyTorch's answers.

    Returns:
        The passed check, and the indices of the real images that are ties: their answers may depend on the batch.

    Raises:
        GateError: an answer differs and is no tie; the message names the kind, the batch size and the worst image.
    """
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    ties: dict[str, set[int]] = {kind: set() for kind in images}
    for kind, canvases in images.items():
        all_expected = Beams(**expected[kind])
        for size in BATCH_SIZES:
            count = len(canvases) if size == max(BATCH_SIZES) else min(4 * size, len(canvases))
            beams, expected_beams = Beams(**answer(runtime, canvases[:count], size)), all_expected.rows(slice(count))
            place = f"batch {size}" if kind == REAL else f"batch {size} of {kind} images"
            _require_shapes(beams, expected_beams, place)
            difference = beams.difference(expected_beams)
            differing = np.flatnonzero(~(difference <= tolerances.absolute))  # written so that NaN differs
            if differing.size:
                _require_ties(perturbed, canvases, beams, differing, difference, place, tolerances.absolute)
                ties[kind] |= set(differing.tolist())
            worst[kind][str(size)] = float(np.delete(difference, differing).max(initial=0.0))
    largest = max(max(by_size.values()) for by_size in worst.values())
    but_ties = f" but {len(ties[REAL])} ties" if ties[REAL] else ""
    summary = (
        f"probabilities within {largest:.1e} of PyTorch at batch {', '.join(map(str, BATCH_SIZES))}; "
        f"the same paths for all{but_ties} of {len(images[REAL])} images"
    )
    figures = {
        "limit": tolerances.absolute,
        "images": len(images[REAL]),
        "ties": len(ties[REAL]),
        "max_probability_difference": worst,
    }
    return PassedCheck(PARITY, summary, figures), frozenset(ties[REAL])


def _require_shapes(beams: Beams, expected: Beams, place: str) -> None:
    for name, actual, right in zip(Beams._fields, beams, expected, strict=True):
        if actual.shape != right.shape:
            raise GateError(
                PARITY, f"{place}: all {name} together have shape {list(actual.shape)}, expected {list(right.shape)}."
            )


def _require_ties(
    perturbed: Perturbed, canvases: Pixels, beams: Beams, differing: Array, difference: Array, place: str, limit: float
) -> None:
    """Raise GateError, which names the worst image, unless all differing images are ties."""
    answers, unexplained = beams.rows(differing), np.ones(len(differing), dtype=bool)
    for perturbed_answer in perturbed():
        reproduced = Beams(**perturbed_answer(canvases[differing])).difference(answers) <= limit
        unexplained &= ~reproduced
        if not unexplained.any():
            return
    wrong = differing[unexplained]
    worst = wrong[np.nan_to_num(difference[wrong], nan=np.inf).argmax()]
    how = "probabilities differ" if np.isfinite(difference[worst]) else "another path is found"
    raise GateError(
        PARITY,
        f"{place}: for {len(wrong)} of {len(beams.path)} images the file answers otherwise than PyTorch, by more than "
        f"{limit:g} and not because paths are tied; worst at image {worst}, where {how}.",
    )
