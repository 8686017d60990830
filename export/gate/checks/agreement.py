"""Does the file give PyTorch's answers, and as many right ones, on the whole test set? For one label an image."""

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate.check import Check
from hangtag.export.gate.runtime_answers import Array
from hangtag.export.gate.tolerances import Rules
from hangtag.training.data.fashion_mnist import Classes
from hangtag.training.metrics.single_label import evaluate

NAME = "agreement"


def check(logits: Array, expected: Array, classes: Classes, rules: Rules) -> Check:
    """Compare the file's logits [n, labels] with PyTorch's, and both with the true classes [n].

    Raises GateError, which names the image where PyTorch was surest of another answer.
    """
    ours, theirs = logits.argmax(axis=1), expected.argmax(axis=1)
    top = np.sort(expected, axis=1)
    margin = top[:, -1] - top[:, -2]
    # In fp32 either answer is right where two are level within the tolerance.
    level = margin <= rules.absolute if rules.agreement == 1 else np.zeros(len(margin), dtype=bool)
    differing = np.flatnonzero((ours != theirs) & ~level)
    agreeing = 1 - len(differing) / len(ours)
    worst = _surest(margin, differing) if differing.size else None
    if agreeing < rules.agreement:
        raise GateError(
            NAME,
            f"the file gives another class than PyTorch for {len(differing)} of {len(ours):,} test images "
            f"({agreeing:.2%} agree, {rules.agreement:.1%} must); worst at test image {worst}.",
        )
    right, wanted = (evaluate(answers, classes).accuracy for answers in (logits, expected))
    changed = int((level & (ours != theirs)).sum())
    allowed = (1 - rules.accuracy) * wanted + changed / len(ours)
    if wanted - right > allowed + 1e-9:  # of the subtraction
        lost = differing[theirs[differing] == classes[differing]]
        raise GateError(
            NAME,
            f"the file is right about {right:.2%} of the test set and PyTorch about {wanted:.2%}; it must keep "
            f"{rules.accuracy:.1%} of that; worst at test image {_surest(margin, lost)}.",
        )
    alike = "every answer the same" if not differing.size else f"{agreeing:.2%} of the answers the same"
    if changed:
        alike += f" but {changed}, each of two labels that are level"
    return Check(
        NAME,
        f"test accuracy {right:.2%}, {alike}",
        {
            "images": len(ours),
            "agreement": agreeing,
            "least_agreement": rules.agreement,
            "accuracy": right,
            "pytorch_accuracy": wanted,
            "least_share_of_accuracy": rules.accuracy,
            "differing": len(differing),
            "level": changed,
            "worst_image": worst,
        },
    )


def _surest(margin: Array, among: Array) -> int:
    """Of these places of images, the one with the largest margin [n]."""
    return int(among[margin[among].argmax()])
