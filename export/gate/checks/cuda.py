"""Does the file load and answer under CUDA? Asked where there is one; elsewhere that is what is told."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import Answers, Pixels
from hangtag.export.gate.tolerances import Rules
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime

NAME = "cuda"
_IMAGES = 256


def check(path: Path, images: Pixels, expected: Answers, rules: Rules, spread: float, level: Collection[int]) -> Check:
    """Compare the first images with what PyTorch answered; level: those of which it may have answered otherwise too.

    Raises GateError when the file fails or differs there.
    """
    try:
        runtime = Runtime(path, provider="auto")
    except ModelLoadError as error:
        raise GateError(NAME, f"{error}.") from error
    if not runtime.provider.startswith("CUDA"):
        return Check(NAME, "no CUDA on this machine", {"outcome": "no CUDA here"})
    got = answers.of_file(runtime, images[:_IMAGES], check=NAME)
    largest = 0.0
    for name in ("logits", "probabilities"):
        if name not in got:
            continue
        difference = np.abs(got[name] - expected[name][:_IMAGES])
        difference[[image for image in level if image < len(difference)]] = 0
        limit = rules.limit(spread)
        if not difference.max() <= limit:
            worst = int(np.nan_to_num(difference, nan=np.inf).max(axis=1).argmax())
            raise GateError(
                NAME,
                f"under CUDA {name} differ from PyTorch's by {difference.max():.2g}, more than the allowed {limit:g}; "
                f"worst at test image {worst}.",
            )
        largest = max(largest, float(difference.max()))
    return Check(
        NAME, f"loads under CUDA, within {largest:.1e} of PyTorch", {"outcome": "loads", "max_difference": largest}
    )
