"""Does the exported beam search find the paths that PyTorch's finds, in the runtime that will serve it?

A beam search decides: where two paths are level up to rounding, either may go on, and the answers differ though nothing
is wrong. So an answer that differs is accepted, and counted as a tie, when the PyTorch network itself gives it once
its weights are moved by about a millionth, or a hundred-thousandth, of themselves. Every other difference is refused.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from export import parity
from export.errors import ParityError
from export.parity import BATCH_SIZES, TOLERANCE, Array, Pixels
from export.served import LabelPath
from serving.server.runtime import Runtime

NUDGES = (1e-6, 1e-5) * 16
"""By how much each weight is moved, relative to itself, in each try: the standard deviation."""
_LARGEST = max(BATCH_SIZES)


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
class PathParity:
    """The largest difference of a probability per batch size where the paths are the same; how many images were
    compared, and how many of them were ties."""

    max_difference: dict[int, float]
    images: int
    ties: int

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        proof = {
            "against": "pytorch",
            "tolerance": TOLERANCE,
            "images": self.images,
            "ties": self.ties,
            "max_probability_difference": {str(size): value for size, value in self.max_difference.items()},
        }
        return {"parity": json.dumps(proof)}

    def __str__(self) -> str:
        batches = ", ".join(map(str, self.max_difference))
        tied = f" but {self.ties} ties" if self.ties else ""
        return (
            f"probabilities within {max(self.max_difference.values()):.1e} of PyTorch at batch {batches}; "
            f"the same paths for all{tied} of {self.images} images"
        )


def verify(served: LabelPath, path: Path, canvases: Pixels) -> PathParity:
    """Compare names and shapes, then the answers: all of canvases [n, 64, 64] at the largest batch size of BATCH_SIZES,
    and four batches of each other.

    Raises ParityError, naming the batch size and the worst image, when the file at path differs from the network.
    """
    runtime = Runtime(path, provider="cpu")
    parity.require_contract(runtime.signature, served)
    expected = Beams(**parity.answers(served, canvases))
    parity.require_finite(np.column_stack([expected.path_probability, expected.probabilities]))
    worst: dict[int, float] = {}
    ties: set[int] = set()
    for size in BATCH_SIZES:
        compared = len(canvases) if size == _LARGEST else min(4 * size, len(canvases))
        got = Beams(**parity.run_in_batches(runtime, canvases[:compared], size))
        wanted = expected.rows(slice(compared))
        _require_shapes(got, wanted, size)
        difference = got.difference(wanted)
        differing = np.flatnonzero(~(difference <= TOLERANCE))  # written so that NaN differs
        if differing.size:
            ties |= _ties(served, canvases, got, differing, difference, size)
        same = np.delete(difference, differing)
        worst[size] = float(same.max(initial=0.0))
    return PathParity(worst, len(canvases), len(ties))


def _require_shapes(got: Beams, wanted: Beams, size: int) -> None:
    for name, found, right in zip(Beams._fields, got, wanted, strict=True):
        if found.shape != right.shape:
            raise ParityError(
                f"batch {size}: all {name} together have shape {list(found.shape)}, expected {list(right.shape)}. "
                "Nothing was published."
            )


def _ties(served: LabelPath, canvases: Pixels, got: Beams, differing: Array, difference: Array, size: int) -> set[int]:
    """The differing images, when all of them are ties. Raises ParityError, which names the worst, when one is not."""
    told, unexplained = got.rows(differing), np.ones(len(differing), dtype=bool)
    for nudged in _nudged(served):
        beams = Beams(**parity.answers(nudged, canvases[differing]))
        unexplained &= ~(beams.difference(told) <= TOLERANCE)
        if not unexplained.any():
            return set(differing.tolist())
    wrong = differing[unexplained]
    worst = wrong[np.nan_to_num(difference[wrong], nan=np.inf).argmax()]
    how = "probabilities differ" if np.isfinite(difference[worst]) else "another path is found"
    raise ParityError(
        f"batch {size}: for {len(wrong)} of {len(got.path)} test images the file answers otherwise than PyTorch, "
        f"by more than {TOLERANCE:g} and not because paths are level; worst at test image {worst}, where {how}. "
        "Nothing was published."
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
