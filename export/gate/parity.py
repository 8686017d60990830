"""Check that a file's numbers equal PyTorch's, at every batch size, on real and artificial images, and on a GPU."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import CUDA, NOT_RUN, PARITY, PassedCheck
from hangtag.export.gate.network_answers import REAL, answer, answer_batch, require_close, tied_paths, worst_image
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.export.network_arrays import Answers, Array, Pixels
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

_CUDA_IMAGES = 256
_AT_EDGE = 0.01
"""The largest share of images for which two paths may be tied for the last place in the beam."""


def check_logits(
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    tolerances: Tolerances,
    spread: float,
    activation: Callable[[Array], Array] | None,
) -> PassedCheck:
    """Check that the logits equal PyTorch's, for up to four batches of each size and kind of images.

    Args:
        images: kind -> images. The kinds are REAL, and those of ``artificial_images``.
        expected: kind -> PyTorch's answers.
        activation: the function that turns logits into probabilities; None if probabilities are not compared.

    Raises:
        GateError: a number differs. The message names the kind, the batch size and the worst image.
    """
    limit = tolerances.logit_limit(spread)
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    for kind, pixels in images.items():
        most = limit if kind == REAL or tolerances.artificial else float(np.finfo(np.float32).max)
        for size in BATCH_SIZES:
            for start in range(0, min(4 * size, len(pixels)), size):
                rows = slice(start, start + size)
                answers = answer_batch(runtime, pixels[rows], PARITY, f"{kind} image {start}")
                logits, batch, how = answers["logits"], _batch(kind, size), "differ from PyTorch's"
                right = expected[kind]["logits"][rows]
                largest = require_close(PARITY, logits, right, most, f"{batch}: logits", how, kind, start)
                worst[kind][str(size)] = max(worst[kind][str(size)], largest)
                if activation is not None:
                    own, most_of_own = activation(logits), tolerances.probabilities
                    what, how = f"{batch}: probabilities", "differ from those of the file's own logits"
                    require_close(PARITY, answers["probabilities"], own, most_of_own, what, how, kind, start)
    required = worst.values() if tolerances.artificial else [worst[REAL]]
    largest = max(max(by_size.values()) for by_size in required)
    return PassedCheck(
        PARITY,
        f"logits within {largest:.1e} of PyTorch at batch {', '.join(map(str, BATCH_SIZES))}",
        {"limit": limit, "spread": spread, "max_logit_difference": worst},
    )


def _batch(kind: str, size: int) -> str:
    return f"batch {size}" if kind == REAL else f"batch {size} of {kind} images"


def check_paths(
    runtime: Runtime, images: Mapping[str, Pixels], expected: Mapping[str, Answers], tolerances: Tolerances
) -> PassedCheck:
    """Check that the exported beam search finds the same paths as PyTorch's.

    At the largest batch size, all images of each kind are compared. At each smaller size, four batches of each kind are
    compared.

    Args:
        images: kind -> images [n, 64, 64].
        expected: kind -> PyTorch's answers.

    Raises:
        GateError: an answer differs, and its path is not tied with PyTorch's. The message names the kind, the batch
            size and the worst image.
    """
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    ties: dict[str, set[int]] = {kind: set() for kind in images}
    for kind, canvases in images.items():
        for size in BATCH_SIZES:
            count = len(canvases) if size == max(BATCH_SIZES) else min(4 * size, len(canvases))
            answers = answer(runtime, canvases[:count], size)
            right = {name: values[:count] for name, values in expected[kind].items()}
            place = _batch(kind, size)
            for name, values in right.items():
                if answers[name].shape != values.shape:
                    shapes = f"shape {list(answers[name].shape)}, expected {list(values.shape)}"
                    raise GateError(PARITY, f"{place}: all {name} together have {shapes}.")
            other_path = (answers["path"] != right["path"]).any(axis=1)
            tied = tied_paths(answers, right, tolerances.absolute)
            at_edge = tied & ~other_path
            if kind == REAL and at_edge.sum() > max(1, _AT_EDGE * count):
                tied &= other_path  # chance does not explain so many ties at the edge of the beam
            of_labels = np.abs(answers["probabilities"] - right["probabilities"]).max(axis=1)
            difference = np.maximum(of_labels, np.abs(answers["path_probability"] - right["path_probability"]))
            difference[other_path] = np.inf
            difference[tied] = 0
            wrong = np.flatnonzero(~(difference <= tolerances.absolute))  # NaN counts as a difference
            if wrong.size:
                image, limit = worst_image(difference), tolerances.absolute
                how = "another path is found" if np.isinf(difference[image]) else "probabilities differ"
                raise GateError(
                    PARITY,
                    f"{place}: for {len(wrong)} of {count} images the file and PyTorch give different answers, by more "
                    f"than {limit:g} and not because paths are tied; worst at image {image}, where {how}.",
                )
            ties[kind] |= set(np.flatnonzero(tied).tolist())
            worst[kind][str(size)] = float(difference.max(initial=0.0))
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
    return PassedCheck(PARITY, summary, figures)


def check_cuda(path: Path, images: Pixels, expected: Answers, tolerances: Tolerances, spread: float) -> PassedCheck:
    """Check that the file loads on a GPU, and that the GPU's answers to the first images equal PyTorch's.

    Without CUDA the check is not run.

    Raises:
        GateError: the file does not load on the GPU, fails, or answers differently.
    """
    try:
        runtime = Runtime(path, provider="auto")
    except ModelLoadError as error:
        raise GateError(CUDA, f"{error}.") from error
    if not runtime.provider.startswith("CUDA"):
        return PassedCheck(CUDA, "not run: no CUDA on this machine", {"outcome": NOT_RUN, "why": "no CUDA"})
    answers = answer(runtime, images[:_CUDA_IMAGES], check=CUDA)
    expected = {name: values[:_CUDA_IMAGES] for name, values in expected.items()}
    limit, largest = tolerances.logit_limit(spread), 0.0
    tied = tied_paths(answers, expected, limit)
    for name in {"logits", "probabilities"} & answers.keys():
        what, how = f"under CUDA {name}", "differ from PyTorch's"
        numbers = np.where(tied[:, None], expected[name], answers[name])
        largest = max(largest, require_close(CUDA, numbers, expected[name], limit, what, how))
    return PassedCheck(
        CUDA, f"loads under CUDA, within {largest:.1e} of PyTorch", {"outcome": "loads", "max_difference": largest}
    )
