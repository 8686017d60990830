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
        other_images: the images that fill the rest of each batch. The more they differ, the stricter is the check.
        spread: the difference between PyTorch's largest and smallest logit.

    Raises:
        GateError: an answer depends on the batch. The message names the output, the batch size and the worst image.
    """
    images = images[:IMAGES]
    limit = tolerances.batching_limit(spread)
    alone = answer(runtime, images, 1, BATCHING)
    differences: dict[str, float] = {}
    changed_labels = 0
    for size in BATCH_SIZES[1:]:
        batched = _answer_among_others(runtime, images, other_images, size)
        differences[str(size)], changed = _compare(alone, batched, limit, size)
        changed_labels = max(changed_labels, changed)
    largest = max(differences.values())
    summary = "the same answer alone and in any batch" + (f" within {largest:.1e}" if largest else ", bit for bit")
    figures = {
        "limit": limit,
        "images": len(images),
        "max_difference": differences,
        "other_top_label": changed_labels,
    }
    return PassedCheck(BATCHING, summary, figures)


def _answer_among_others(runtime: Runtime, images: Pixels, other_images: Pixels, size: int) -> Answers:
    """Run the images in batches of this size. Half of the rows hold other images, and the rows of the tested images
    change from batch to batch."""
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


def _compare(alone: Answers, batched: Answers, limit: float, size: int) -> tuple[float, int]:
    """Return the largest difference between the answers alone and in batches, and the number of images whose most
    probable label differs."""
    compared = ~tied_paths(alone, batched, limit)
    largest = 0.0
    for name, values in alone.items():
        what, how = f"{name} of an image", f"differ between a batch of 1 and a batch of {size}"
        numbers = batched[name].astype(np.float64)
        numbers[~compared] = values[~compared]
        largest = max(largest, require_close(BATCHING, numbers, values, limit, what, how))
    scores = "logits" if "logits" in alone else "probabilities"
    changed = alone[scores].argmax(axis=1) != batched[scores].argmax(axis=1)
    return largest, int((changed & compared).sum())
