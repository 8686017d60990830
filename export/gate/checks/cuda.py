"""Check that the file loads on a GPU and answers as PyTorch does; without CUDA it is not run."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from hangtag.export.arrays import Answers, Pixels
from hangtag.export.errors import GateError
from hangtag.export.gate.check import CUDA, NOT_RUN, PassedCheck
from hangtag.export.gate.runtime_answers import answer, worst_image
from hangtag.export.gate.tolerances import Tolerances
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

_IMAGES = 256


def check(
    path: Path, images: Pixels, expected: Answers, tolerances: Tolerances, spread: float, ties: Collection[int]
) -> PassedCheck:
    """Compare the answers to the first images with PyTorch's.

    Args:
        ties: indices of images that may be answered differently, since two paths are tied.

    Raises:
        GateError: the file does not load there, fails, or differs.
    """
    try:
        runtime = Runtime(path, provider="auto")
    except ModelLoadError as error:
        raise GateError(CUDA, f"{error}.") from error
    if not runtime.provider.startswith("CUDA"):
        return PassedCheck(CUDA, "not run: no CUDA on this machine", {"outcome": NOT_RUN, "why": "no CUDA"}, ran=False)
    answers = answer(runtime, images[:_IMAGES], check=CUDA)
    limit = tolerances.logit_limit(spread)
    largest = 0.0
    for name in ("logits", "probabilities"):
        if name not in answers:
            continue
        difference = np.abs(answers[name] - expected[name][:_IMAGES])
        difference[[image for image in ties if image < len(difference)]] = 0
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
