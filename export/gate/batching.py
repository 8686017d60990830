"""Check that an image gets the same answer alone and inside any batch, and what becomes of a batch of 0."""

from pathlib import Path

import numpy as np

from hangtag.export import child_process
from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import BATCHING, EMPTY_BATCH, PassedCheck
from hangtag.export.gate.reference import answer, answer_batch, tied_paths, worst_image
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.serving.server.errors import InferenceError
from hangtag.serving.server.runtime.arrays import dtype_of
from hangtag.serving.server.runtime.session import Runtime

IMAGES = 128
"""This many real images are run alone and in batches."""


def check(runtime: Runtime, images: Pixels, other_images: Pixels, tolerances: Tolerances, spread: float) -> PassedCheck:
    """Run each image alone, then in batches of every size among images that differ as much as possible from it.

    Args:
        other_images: the images that fill the batches.
        spread: the range of PyTorch's logits.

    Raises:
        GateError: an answer changes; the message names the output, the batch size and the worst image.
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
    """Run the images in batches of this size, of which other images fill half. The rows of each change from batch to
    batch."""
    own = max(1, size // 2)
    outputs: dict[str, list[Array]] = {}
    for turn, start in enumerate(range(0, len(images), own)):
        tested = images[start : start + own]
        batch = other_images[np.arange(turn, turn + size) % len(other_images)].copy()
        rows = (np.arange(len(tested)) * 2 + turn) % size
        batch[rows] = tested
        for name, output in answer_batch(runtime, batch, BATCHING, f"with image {start} among others").items():
            outputs.setdefault(name, []).append(output[rows])
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def _compare(alone: Answers, batched: Answers, limit: float, size: int) -> tuple[float, int]:
    """The largest difference of a number, and how many images have another most probable label."""
    compared = ~tied_paths(alone, batched, limit)
    largest = 0.0
    for name, values in alone.items():
        difference = np.abs(batched[name].astype(np.float64) - values).reshape(len(values), -1).max(axis=1)
        difference[~compared] = 0
        if not difference.max() <= limit:  # written so that NaN fails
            raise GateError(
                BATCHING,
                f"{name} of an image differ by {difference.max():.2g} between a batch of 1 and a batch of {size}, more "
                f"than the allowed {limit:g}: the other images of a batch would change an answer. Worst at test image "
                f"{worst_image(difference)}.",
            )
        largest = max(largest, float(difference.max()))
    scores = "logits" if "logits" in alone else "probabilities"
    changed = alone[scores].argmax(axis=1) != batched[scores].argmax(axis=1)
    return largest, int((changed & compared).sum())


def check_empty(path: Path) -> PassedCheck:
    """Run the file on a batch of 0 in a child process.

    ONNX Runtime aborts the whole process on an LSTM with a batch of 0. That is no failure: the server refuses an empty
    batch before its runtime sees it.

    Raises:
        GateError: the answer has rows, or the child fails otherwise than by a signal.
    """
    try:
        outcome = child_process.run(_run_empty_batch, path, shown_as=path, check=EMPTY_BATCH, seconds=120)
    except child_process.ChildAbortedError:
        summary = "the runtime ends the process on an empty batch, which the server refuses first"
        return PassedCheck(EMPTY_BATCH, summary, {"outcome": "aborted"})
    return PassedCheck(EMPTY_BATCH, f"an empty batch is {outcome}", {"outcome": outcome})


def _run_empty_batch(path: Path) -> str:
    """Run the file on a batch of 0 in this process: whether that is answered or refused."""
    runtime = Runtime(path, provider="cpu")
    inputs = {
        spec.name: np.zeros([0, *(1 if size is None else size for size in spec.shape[1:])], dtype_of(spec))
        for spec in runtime.signature.inputs
    }
    try:
        outputs = runtime.run(inputs)
    except InferenceError:
        return "refused"
    if any(len(output) for output in outputs.values()):
        shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
        raise GateError(EMPTY_BATCH, f"a batch of 0 is answered with {shapes}.")
    return "answered"
