"""Check that a file's numbers are PyTorch's, at every batch size, on real and on artificial images, and on a GPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import CUDA, NOT_RUN, PARITY, PassedCheck
from hangtag.export.gate.reference import REAL, Activation, answer, answer_batch, tied_paths, worst_image
from hangtag.export.gate.tolerances import BATCH_SIZES, Tolerances
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

_CUDA_IMAGES = 256
_AT_EDGE = 0.01
"""At most this share of images may have paths that are tied at the edge of the beam."""


def check_logits(
    runtime: Runtime,
    images: Mapping[str, Pixels],
    expected: Mapping[str, Answers],
    tolerances: Tolerances,
    spread: float,
    activation: Activation | None,
    against: str = "PyTorch",
) -> PassedCheck:
    """Check that the logits are PyTorch's: of up to four batches of each size, of each kind of images.

    Args:
        images: kind -> images, as ``artificial_images`` names the kinds.
        expected: kind -> PyTorch's answers.
        activation: turns logits into probabilities; None where it is unknown, then probabilities are not compared.
        against: what gave the expected answers, for the messages.

    Raises:
        GateError: a number differs; the message names the kind, the batch size and the worst image.
    """
    limit = tolerances.logit_limit(spread)
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    for kind, pixels in images.items():
        most = limit if kind == REAL or tolerances.artificial else float(np.finfo(np.float32).max)
        for size in BATCH_SIZES:
            for start in range(0, min(4 * size, len(pixels)), size):
                rows = slice(start, start + size)
                answers = answer_batch(runtime, pixels[rows], PARITY, f"{kind} image {start}")
                batch = _Batch(kind, size, start)
                difference = _compare_logits(answers["logits"], expected[kind]["logits"][rows], batch, most, against)
                worst[kind][str(size)] = max(worst[kind][str(size)], difference)
                _check_probabilities(answers, tolerances.probabilities, batch, activation)
    required = worst.values() if tolerances.artificial else [worst[REAL]]
    largest = max(max(by_size.values()) for by_size in required)
    return PassedCheck(
        PARITY,
        f"logits within {largest:.1e} of {against} at batch {', '.join(map(str, BATCH_SIZES))}",
        {"limit": limit, "spread": spread, "max_logit_difference": worst},
    )


class _Batch(NamedTuple):
    """Which images are compared, for error messages."""

    kind: str
    size: int
    start: int

    def __str__(self) -> str:
        return f"batch {self.size}" if self.kind == REAL else f"batch {self.size} of {self.kind} images"

    def worst(self, difference: Array) -> str:
        return f"worst at {self.kind} image {self.start + worst_image(difference)}"


def _compare_logits(logits: Array, expected: Array, batch: _Batch, limit: float, against: str) -> float:
    if logits.shape != expected.shape:
        raise GateError(PARITY, f"{batch}: logits have shape {list(logits.shape)}, expected {list(expected.shape)}.")
    difference = np.abs(logits - expected)
    if not difference.max() <= limit:  # written so that NaN fails
        raise GateError(
            PARITY,
            f"{batch}: logits differ from {against}'s by {difference.max():.2g}, more than the allowed {limit:g}; "
            f"{batch.worst(difference)}.",
        )
    return float(difference.max())


def _check_probabilities(answers: Answers, limit: float, batch: _Batch, activation: Activation | None) -> None:
    logits, probabilities = answers["logits"], answers["probabilities"]
    if probabilities.shape != logits.shape:
        raise GateError(
            PARITY, f"{batch}: probabilities have shape {list(probabilities.shape)}, expected {list(logits.shape)}."
        )
    if activation is None:
        return
    difference = np.abs(probabilities - activation(logits))
    if not difference.max() <= limit:
        raise GateError(
            PARITY,
            f"{batch}: probabilities are not those of the file's own logits: they differ by {difference.max():.2g}, "
            f"more than the allowed {limit:g}; {batch.worst(difference)}.",
        )


def check_paths(
    runtime: Runtime, images: Mapping[str, Pixels], expected: Mapping[str, Answers], tolerances: Tolerances
) -> PassedCheck:
    """Check that the exported beam search finds the paths that PyTorch's finds.

    All images of each kind are compared at the largest batch size, and four batches at each other size.

    Args:
        images: kind -> images [n, 64, 64].
        expected: kind -> PyTorch's answers.

    Raises:
        GateError: an answer differs, and its path is not tied with PyTorch's; the message names the kind, the batch
            size and the worst image.
    """
    worst = {kind: {str(size): 0.0 for size in BATCH_SIZES} for kind in images}
    ties: dict[str, set[int]] = {kind: set() for kind in images}
    for kind, canvases in images.items():
        for size in BATCH_SIZES:
            count = len(canvases) if size == max(BATCH_SIZES) else min(4 * size, len(canvases))
            answers = answer(runtime, canvases[:count], size)
            right = {name: values[:count] for name, values in expected[kind].items()}
            place = str(_Batch(kind, size, 0))
            for name, values in right.items():
                if answers[name].shape != values.shape:
                    shapes = f"shape {list(answers[name].shape)}, expected {list(values.shape)}"
                    raise GateError(PARITY, f"{place}: all {name} together have {shapes}.")
            other_path = (answers["path"] != right["path"]).any(axis=1)
            tied = tied_paths(answers, right, tolerances.absolute)
            at_edge = tied & ~other_path
            if kind == REAL and at_edge.sum() > max(1, _AT_EDGE * count):
                tied &= other_path  # so many are no chance
            of_labels = np.abs(answers["probabilities"] - right["probabilities"]).max(axis=1)
            difference = np.maximum(of_labels, np.abs(answers["path_probability"] - right["path_probability"]))
            difference[other_path] = np.inf
            difference[tied] = 0
            wrong = np.flatnonzero(~(difference <= tolerances.absolute))  # written so that NaN differs
            if wrong.size:
                image, limit = worst_image(difference), tolerances.absolute
                how = "another path is found" if np.isinf(difference[image]) else "probabilities differ"
                raise GateError(
                    PARITY,
                    f"{place}: for {len(wrong)} of {count} images the file answers otherwise than PyTorch, by more "
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
    """Check that the file loads on a GPU, and that its answers to the first images are PyTorch's there.

    Without CUDA it is not run.

    Raises:
        GateError: the file does not load there, fails, or differs.
    """
    try:
        runtime = Runtime(path, provider="auto")
    except ModelLoadError as error:
        raise GateError(CUDA, f"{error}.") from error
    if not runtime.provider.startswith("CUDA"):
        return PassedCheck(CUDA, "not run: no CUDA on this machine", {"outcome": NOT_RUN, "why": "no CUDA"}, ran=False)
    answers = answer(runtime, images[:_CUDA_IMAGES], check=CUDA)
    expected = {name: values[:_CUDA_IMAGES] for name, values in expected.items()}
    limit = tolerances.logit_limit(spread)
    largest = 0.0
    for name in ("logits", "probabilities"):
        if name not in answers:
            continue
        difference = np.abs(answers[name] - expected[name])
        difference[tied_paths(answers, expected, limit)] = 0
        if not difference.max() <= limit:  # written so that NaN fails
            raise GateError(
                CUDA,
                f"under CUDA {name} differ from PyTorch's by {difference.max():.2g}, more than the allowed {limit:g}; "
                f"worst at test image {worst_image(difference)}.",
            )
        largest = max(largest, float(difference.max()))
    return PassedCheck(
        CUDA, f"loads under CUDA, within {largest:.1e} of PyTorch", {"outcome": "loads", "max_difference": largest}
    )
