"""Check that an image gets the same answer alone and inside any batch."""

import numpy as np

from hangtag.export.gate.check import BATCHING, PassedCheck
from hangtag.export.gate.network_answers import answer, answer_batch, require_close, tied_paths
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.export.network_arrays import Answers, Array, Pixels
from hangtag.serving.server.runtime.session import Runtime

IMAGES = 128
"""The number of real images that the check runs alone and in batches."""


def check(runtime: Runtime, images: Pixels, other_images: Pixels, tolerances: Tolerances, spread: float) -> PassedCheck:
    """Run each image alone, then in batches of every size together with other images, and compare the answers.

    Args:
        other_images: the images that fill the rest of each batch. The more these images vary, the stricter the check.
        spread: PyTorch's largest logit minus its smallest.

    Raises:
        GateError: an answer depends on the batch. The message names the output, the batch size and the worst image.
    """
    images = images[:IMAGES]
    limit = tolerances.batching_limit(spread)
    alone = answer(runtime, images, 1, BATCHING)
    differences: dict[str, float] = {}
    for size in BATCH_SIZES[1:]:
        batched = _answer_among_others(runtime, images, other_images, size)
        tied, how = tied_paths(alone, batched, limit), f"differ between a batch of 1 and a batch of {size}"
        differences[str(size)] = max(
            require_close(BATCHING, batched[name], values, limit, f"{name} of an image", how, tied=tied)
            for name, values in alone.items()
        )
    largest = max(differences.values())
    summary = "the same answer alone and in any batch" + (f" within {largest:.1e}" if largest else ", bit for bit")
    return PassedCheck(BATCHING, summary, {"limit": limit, "images": len(images), "max_difference": differences})


def _answer_among_others(runtime: Runtime, images: Pixels, other_images: Pixels, size: int) -> Answers:
    """Run the images in batches of this size. Half of the rows of each batch hold other images. The tested
    images are in different rows than in the previous batch."""
    own = max(1, size // 2)
    outputs: dict[str, list[Array]] = {}
    for turn, start in enumerate(range(0, len(images), own)):
        tested = images[start : start + own]
        batch = other_images[np.arange(turn, turn + size) % len(other_images)].copy()
        rows = (np.arange(len(tested)) * 2 + turn) % size
        batch[rows] = tested
        for name, output in answer_batch(runtime, batch, BATCHING, f"with image {start} and other images").items():
            outputs.setdefault(name, []).append(output[rows])
    return {name: np.concatenate(parts) for name, parts in outputs.items()}
