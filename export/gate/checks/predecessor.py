"""Check that the file is no worse than the version that serves under its name, on the same test set."""

import math

from hangtag.export.errors import GateError
from hangtag.export.file.quality import Quality
from hangtag.export.gate.check import PREDECESSOR, PassedCheck

CHANCE = 1.645
"""Standard errors that chance may explain. Of equal models one in twenty would lie beyond, were the two test sets drawn
independently; both answer the same images, so that fewer do. Seeds of one recipe of the study lie up to 0.67 points
apart (studies/accuracy/results.jsonl), which is within the bound too: 0.78 points at 87 % of 10,000 images."""


def check(
    own: Quality, images: int, serving: Quality, version: int, *, even_if_worse: bool, remedy: str
) -> PassedCheck:
    """Compare two shares of the same test set by the two-proportion test.

    Args:
        own: the file's quality.
        images: the size of the test set.
        serving: the quality of the version that serves.
        version: that version's number.
        even_if_worse: let a worse file pass.
        remedy: what to do about a worse file, a sentence for the end of the message.

    Raises:
        GateError: the file is worse by more than chance explains.
    """
    lost = serving.share - own.share
    mean = (serving.share + own.share) / 2
    chance = CHANCE * math.sqrt(2 * mean * (1 - mean) / images)
    is_worse = lost > chance
    comparison = f"{own}, and version {version}, which serves, has {serving.share:.2%}"
    if is_worse and not even_if_worse:
        raise GateError(
            PREDECESSOR,
            f"{comparison}. It is {100 * lost:.2f} points worse, and chance explains {100 * chance:.2f}. {remedy}",
        )
    figures = {"version": version, "figure": own.figure, "own": own.share, "serving": serving.share}
    return PassedCheck(
        PREDECESSOR,
        f"WORSE, published all the same: {comparison}" if is_worse else comparison,
        figures | {"images": images, "explained_by_chance": chance, "worse": is_worse},
    )
