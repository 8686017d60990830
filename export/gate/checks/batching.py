"""Does an image get the same answer alone and inside any batch? Batching must never change a result.

And what does an empty batch do? ONNX Runtime ends the whole process on an LSTM with one, so that is asked in a child.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from hangtag.export import child_process as child
from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import Answers, Array, Pixels
from hangtag.export.gate.tolerances import BATCH_SIZES, Rules
from hangtag.serving.server.runtime.session import Runtime

NAME = "batching"
ALONE = 128
"""How many real images are asked about alone, and in batches; with the artificial ones among them as company."""
_SECONDS = 120.0


def check(
    runtime: Runtime, images: Pixels, company: Pixels, rules: Rules, spread: float, level: Collection[int] = ()
) -> Check:
    """Ask about each image alone, then in batches of every size, with company that differs most from it.

    images, company: uint8 [n, height, width]; level: images whose answer may change, since two are as good.
    Raises GateError, which names the output, the batch size and the worst image.
    """
    images = images[:ALONE]
    limit = rules.batching_limit(spread)
    alone = answers.of_file(runtime, images, 1, NAME)
    worst: dict[str, float] = {}
    changed = 0
    for size in BATCH_SIZES[1:]:
        together = _in_company(runtime, images, company, size)
        largest, differing = _compare(alone, together, limit, size, level)
        worst[str(size)] = largest
        changed = max(changed, differing)
    most = max(worst.values())
    said = "the same answer alone and in any batch" + (f" within {most:.1e}" if most else ", bit for bit")
    return Check(
        NAME, said, {"limit": limit, "images": len(images), "max_difference": worst, "other_top_label": changed}
    )


def _in_company(runtime: Runtime, images: Pixels, company: Pixels, size: int) -> Answers:
    """Answers to the images in batches of this size of which half, and at least one, are strangers. Where an image
    stands changes from batch to batch."""
    own = max(1, size // 2)
    answered: dict[str, list[Array]] = {}
    for turn, start in enumerate(range(0, len(images), own)):
        asked = images[start : start + own]
        batch = company[np.arange(turn, turn + size) % len(company)].copy()
        places = (np.arange(len(asked)) * 2 + turn) % size
        batch[places] = asked
        for name, output in answers.ask(runtime, batch, NAME, f"image {start} in company").items():
            answered.setdefault(name, []).append(output[places])
    return {name: np.concatenate(parts) for name, parts in answered.items()}


def _compare(alone: Answers, together: Answers, limit: float, size: int, level: Collection[int]) -> tuple[float, int]:
    """The largest difference of a number, and how many images have another most probable label."""
    counted = np.ones(len(next(iter(alone.values()))), dtype=bool)
    counted[[image for image in level if image < len(counted)]] = False
    largest = 0.0
    for name, values in alone.items():
        difference = np.abs(together[name].astype(np.float64) - values).reshape(len(values), -1).max(axis=1)
        difference[~counted] = 0
        if not difference.max() <= limit:
            raise GateError(
                NAME,
                f"{name} of an image differ by {difference.max():.2g} between a batch of 1 and a batch of {size}, more "
                f"than the allowed {limit:g}: who else is in a batch would change an answer. Worst at test image "
                f"{int(np.nan_to_num(difference, nan=np.inf).argmax())}.",
            )
        largest = max(largest, float(difference.max()))
    scores = "logits" if "logits" in alone else "probabilities"
    other = alone[scores].argmax(axis=1) != together[scores].argmax(axis=1)
    return largest, int((other & counted).sum())


def check_empty(path: Path) -> Check:
    """Ask about a batch of 0 in a child process. Raises GateError for an answer that is none, and for no answer at all.

    That the runtime ends the process is no failure: the server refuses an empty batch before its runtime sees it.
    """
    try:
        told = child.ask("hangtag.export.gate.checks.empty_batch", path, _SECONDS)
    except child.ChildEndedError:
        return _empty("the runtime ends the process on an empty batch, which the server refuses first", "aborted")
    except child.ChildFailedError as error:
        raise GateError("empty batch", f"asking about a batch of 0 failed: {error}.") from error
    if told["outcome"] == "malformed":
        raise GateError("empty batch", f"a batch of 0 is answered with {told['detail']}.")
    return _empty(f"an empty batch is {told['outcome']}", told["outcome"])


def _empty(said: str, outcome: str) -> Check:
    return Check("empty batch", said, {"outcome": outcome})
