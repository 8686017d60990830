"""Does the exported file give the label sets of the PyTorch network, where a threshold decides?"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.errors import ParityError
from export.parity import TOLERANCE, Pixels, answers, compare, require_contract, require_finite, run_in_batches
from export.served import LabelThreshold
from serving.server.runtime import Runtime


@dataclass(frozen=True)
class ThresholdParity:
    """The largest difference of a logit per batch size, and how many images' sets were compared."""

    max_difference: dict[int, float]
    images: int

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        proof = {
            "against": "pytorch",
            "tolerance": TOLERANCE,
            "images": self.images,
            "max_logit_difference": {str(size): value for size, value in self.max_difference.items()},
        }
        return {"parity": json.dumps(proof)}

    def __str__(self) -> str:
        batches = ", ".join(map(str, self.max_difference))
        return (
            f"logits within {max(self.max_difference.values()):.1e} of PyTorch at batch {batches}; "
            f"the same label sets for all of {self.images} images"
        )


def verify(served: LabelThreshold, path: Path, canvases: Pixels) -> ThresholdParity:
    """Compare names and shapes, then canvases [n, 64, 64] at every batch size, then the label sets of all of them.

    Raises ParityError, naming the batch size and the worst image, when the file at path differs from the network.
    """
    runtime = Runtime(path, provider="cpu")
    require_contract(runtime.signature, served)
    expected = answers(served, canvases)
    require_finite(expected["logits"])
    differences = compare(runtime, expected, canvases)
    wanted, got = expected["probabilities"], run_in_batches(runtime, canvases)["probabilities"]
    # Where a label stands at the threshold within the tolerance either answer is right.
    level = np.abs(wanted - served.threshold) <= TOLERANCE
    wrong = np.flatnonzero((((got >= served.threshold) != (wanted >= served.threshold)) & ~level).any(axis=1))
    if wrong.size:
        raise ParityError(
            f"the exported file gives another set of labels than PyTorch for {wrong.size} of {len(canvases)} test "
            f"images, first for image {wrong[0]}. Nothing was published."
        )
    return ThresholdParity(differences, len(canvases))
