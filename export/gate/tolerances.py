"""How exact each precision must be: the one place that says so."""

from dataclasses import dataclass

BATCH_SIZES = (1, 2, 3, 7, 16, 64)
"""What answers are compared at. 1 could freeze an axis, 3 and 7 fill no vector register, 64 is a server's largest."""


@dataclass(frozen=True)
class Rules:
    """What a file of one precision must reach.

    A logit may differ from PyTorch's by ``absolute``, and ``of_spread`` times the distance from PyTorch's smallest
    logit on the test set to its largest: rounding grows with what is rounded.
    """

    absolute: float
    of_spread: float
    probabilities: float
    """How far the probabilities may be from what the file's own logits make them."""
    agreement: float
    """The share of the test set that must get PyTorch's answer."""
    accuracy: float
    """The share of PyTorch's accuracy that must be reached. Of 1.0 nothing may be lost but by images of
    which two labels are level."""
    batching: float
    """How far a logit may be from what it is when the image is alone, as a share of the spread (and no less than
    1e-4): no batch may change an answer."""
    verified: float
    """How far the accuracy that `hangtag models verify` finds may be from the recorded one: another processor rounds
    otherwise, and images of which two labels are level may go either way."""

    def limit(self, spread: float) -> float:
        """The largest allowed difference of a logit."""
        return self.absolute + self.of_spread * spread

    def batching_limit(self, spread: float) -> float:
        """The largest allowed difference of a logit between an image alone and in company."""
        return 1e-4 + self.batching * spread


RULES = {
    # The same sums in another order, no more: every answer is PyTorch's, but where two are level within the tolerance.
    "fp32": Rules(
        absolute=1e-4, of_spread=0, probabilities=1e-4, agreement=1.0, accuracy=1.0, batching=0, verified=2e-4
    ),
    # 11 bits of mantissa: a two-thousandth of a value, and a few such errors on the way.
    "fp16": Rules(
        absolute=1e-3, of_spread=2e-3, probabilities=4e-3, agreement=0.999, accuracy=0.999, batching=1e-3, verified=1e-3
    ),
    # 8 bits: single logits may be far off on single images; answers may not. Pinned scales keep batches out of it.
    "int8": Rules(
        absolute=1e-2, of_spread=0.1, probabilities=1e-4, agreement=0.99, accuracy=0.995, batching=0, verified=2e-3
    ),
}
