"""Check that a file's numbers equal PyTorch's, at every batch size, on real and artificial images, and on a GPU."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import CUDA, NOT_RUN, PARITY, PassedCheck
from hangtag.export.gate.network_answers import REAL, answer, require_close, tied_paths
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.export.network_arrays import Answers, Array, Pixels
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

_CUDA_IMAGES = 256
_AT_EDGE = 0.01
"""The largest share of images for which two paths may be tied for the last place in the beam."""
_IN_WORDS = {"path": "paths", "path_probability": "path probabilities"}


def check(
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    tolerances: Tolerances,
    spread: float = 0.0,
    activation: Callable[[Array], Array] | None = None,
) -> PassedCheck:
    """Compare a file's logits, or its label paths and all probabilities, with PyTorch's.

    For each batch size and kind of images, up to four batches are compared. At the largest batch size, the label paths
    of all images are compared. If two paths of an image are tied, the file may choose either.

    Args:
        images: kind -> images. The kinds are REAL and those of ``artificial_images``.
        expected: kind -> PyTorch's answers.
        spread: PyTorch's largest logit minus its smallest.
        activation: the function that turns logits into probabilities; None if probabilities are not compared.

    Raises:
        GateError: a number differs. The message names the kind of images, the batch size and the worst image.
    """
    limit, has_paths = tolerances.logit_limit(spread), "path" in expected[REAL]
    names = list(expected[REAL]) if has_paths else ["logits"]
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    ties: set[int] = set()
    for kind, pixels in images.items():
        most = limit if kind == REAL or tolerances.artificial else float(np.finfo(np.float32).max)
        for size in BATCH_SIZES:
            count = len(pixels) if has_paths and size == max(BATCH_SIZES) else min(4 * size, len(pixels))
            answers = answer(runtime, pixels[:count], size)
            right = {name: values[:count] for name, values in expected[kind].items()}
            batch = f"batch {size}" if kind == REAL else f"batch {size} of {kind} images"
            tied = tied_paths(answers, right, limit)
            if kind == REAL and tied.any():
                at_edge = tied & (answers["path"] == right["path"]).all(axis=1)
                if at_edge.sum() > max(1, _AT_EDGE * count):
                    tied &= ~at_edge  # chance does not explain so many ties at the edge of the beam
                ties |= set(np.flatnonzero(tied).tolist())
            for name in names:
                what, how = f"{batch}: {_IN_WORDS.get(name, name)}", "differ from PyTorch's"
                furthest = require_close(PARITY, answers[name], right[name], most, what, how, kind, tied)
                worst[kind][str(size)] = max(worst[kind][str(size)], furthest)
            if activation is not None:
                what, how = f"{batch}: probabilities", "differ from those of the file's own logits"
                own = activation(answers["logits"])
                require_close(PARITY, answers["probabilities"], own, tolerances.probabilities, what, how, kind)
    required = worst.values() if tolerances.artificial else [worst[REAL]]
    largest = max(max(by_size.values()) for by_size in required)
    within = f"within {largest:.1e} of PyTorch at batch {', '.join(map(str, BATCH_SIZES))}"
    if not has_paths:
        figures = {"limit": limit, "spread": spread, "max_logit_difference": worst}
        return PassedCheck(PARITY, f"logits {within}", figures)
    but_ties = f" except for {len(ties)} ties" if ties else ""
    return PassedCheck(
        PARITY,
        f"probabilities {within}; the same paths for all {len(images[REAL])} images{but_ties}",
        {"limit": limit, "images": len(images[REAL]), "ties": len(ties), "max_probability_difference": worst},
    )


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
    limit, how = tolerances.logit_limit(spread), "differ from PyTorch's"
    tied = tied_paths(answers, expected, limit)
    largest = max(
        require_close(CUDA, answers[name], expected[name], limit, f"under CUDA {name}", how, tied=tied)
        for name in {"logits", "probabilities"} & answers.keys()
    )
    return PassedCheck(
        CUDA, f"runs under CUDA; differs from PyTorch by {largest:.1e}", {"outcome": "loads", "max_difference": largest}
    )
