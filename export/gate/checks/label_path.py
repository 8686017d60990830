"""Does the exported beam search find the paths that PyTorch's finds?

A beam search decides: where two paths are level up to rounding, either may go on, and the answers differ though nothing
is wrong. So an answer that differs is accepted, and counted as a tie, when the PyTorch network itself gives it once
its weights are moved by about a millionth, or a hundred-thousandth, of themselves. Every other difference is refused.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import REAL, Answers, Array, Pixels
from hangtag.export.gate.tolerances import BATCH_SIZES, Rules
from hangtag.export.network import pytorch_answers as pytorch
from hangtag.export.network.served_network import LabelPath
from hangtag.serving.server.runtime.session import Runtime

NAME = "parity"
NUDGES = (1e-6, 1e-5) * 16
"""By how much each weight is moved, relative to itself, in each try: the standard deviation."""


class Beams(NamedTuple):
    """What was answered for n images, by the names and types of the file's outputs."""

    path: Array
    path_probability: Array
    probabilities: Array

    def difference(self, other: "Beams") -> Array:
        """The largest difference of a probability for each image, [n]; infinite where the paths differ."""
        of_labels = np.abs(self.probabilities - other.probabilities).max(axis=1)
        largest = np.maximum(of_labels, np.abs(self.path_probability - other.path_probability))
        return np.where((self.path == other.path).all(axis=1), largest, np.inf)

    def rows(self, chosen: Any) -> "Beams":
        return Beams(*(part[chosen] for part in self))


@dataclass(frozen=True)
class Found:
    """The check that was passed, and which real images were ties: what they answer may depend on their batch."""

    check: Check
    ties: frozenset[int]


def check(
    served: LabelPath,
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    rules: Rules,
) -> Found:
    """Compare the answers: all images [n, 64, 64] of a kind at the largest batch size, and four batches of each other.

    Raises GateError, which names the kind, the batch size and the worst image.
    """
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    ties: dict[str, set[int]] = {kind: set() for kind in images}
    for kind, canvases in images.items():
        answered = Beams(**expected[kind])
        for size in BATCH_SIZES:
            compared = len(canvases) if size == max(BATCH_SIZES) else min(4 * size, len(canvases))
            got = Beams(**answers.of_file(runtime, canvases[:compared], size))
            wanted = answered.rows(slice(compared))
            place = f"batch {size}" if kind == REAL else f"batch {size} of {kind} images"
            _require_shapes(got, wanted, place)
            difference = got.difference(wanted)
            differing = np.flatnonzero(~(difference <= rules.absolute))  # written so that NaN differs
            if differing.size:
                ties[kind] |= _ties(served, canvases, got, differing, difference, place, rules.absolute)
            same = np.delete(difference, differing)
            worst[kind][str(size)] = float(same.max(initial=0.0))
    largest = max(max(by_size.values()) for by_size in worst.values())
    tied = f" but {len(ties[REAL])} ties" if ties[REAL] else ""
    said = (
        f"probabilities within {largest:.1e} of PyTorch at batch {', '.join(map(str, BATCH_SIZES))}; "
        f"the same paths for all{tied} of {len(images[REAL])} images"
    )
    figures = {
        "limit": rules.absolute,
        "images": len(images[REAL]),
        "ties": len(ties[REAL]),
        "max_probability_difference": worst,
    }
    return Found(Check(NAME, said, figures), frozenset(ties[REAL]))


def _require_shapes(got: Beams, wanted: Beams, place: str) -> None:
    for name, found, right in zip(Beams._fields, got, wanted, strict=True):
        if found.shape != right.shape:
            raise GateError(
                NAME, f"{place}: all {name} together have shape {list(found.shape)}, expected {list(right.shape)}."
            )


def _ties(
    served: LabelPath, canvases: Pixels, got: Beams, differing: Array, difference: Array, place: str, limit: float
) -> set[int]:
    """The differing images, when all of them are ties. Raises GateError, which names the worst, when one is not."""
    told, unexplained = got.rows(differing), np.ones(len(differing), dtype=bool)
    for nudged in _nudged(served):
        beams = Beams(**pytorch.answer(nudged, canvases[differing]))
        unexplained &= ~(beams.difference(told) <= limit)
        if not unexplained.any():
            return set(differing.tolist())
    wrong = differing[unexplained]
    worst = wrong[np.nan_to_num(difference[wrong], nan=np.inf).argmax()]
    how = "probabilities differ" if np.isfinite(difference[worst]) else "another path is found"
    raise GateError(
        NAME,
        f"{place}: for {len(wrong)} of {len(got.path)} images the file answers otherwise than PyTorch, by more than "
        f"{limit:g} and not because paths are level; worst at image {worst}, where {how}.",
    )


def _nudged(served: LabelPath) -> Iterator[LabelPath]:
    """Copies whose weights are a little off, each in its own way, the same at every call."""
    random = torch.Generator().manual_seed(0)
    for nudge in NUDGES:
        other = copy.deepcopy(served)
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(1 + nudge * torch.randn(weight.shape, generator=random))
        yield other
