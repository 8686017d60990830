"""How exact the file of each precision must be. This table is the only place that says so."""

from dataclasses import dataclass

BATCH_SIZES = (1, 2, 3, 7, 16, 64)
"""Answers are compared at these. An export can freeze an axis of 1, 3 and 7 fill no vector register, 64 is a server's
largest batch."""

GATE_IMAGES = 10_000
"""So many images of the test split are compared, at most."""


@dataclass(frozen=True)
class Tolerances:
    """What a file of one precision must reach.

    Rounding grows with what is rounded, so some limits are shares of the logits' spread: the distance from PyTorch's
    smallest logit on the test set to its largest.
    """

    absolute: float
    """A logit may differ from PyTorch's by this much, plus ``of_spread`` times the spread."""
    of_spread: float
    probabilities: float
    """A probability may differ by this much from the one that the file's own logits yield."""
    agreement: float
    """At least this share of the test set must get PyTorch's label."""
    accuracy: float
    """At least this share of PyTorch's accuracy must be kept. At 1.0 only images with two tied labels may be lost."""
    batching: float
    """An image's logit may differ by 1e-4, plus this share of the spread, between running it alone and in a batch."""
    verification: float
    """The accuracy that `hangtag models verify` measures may differ by this much from the recorded one: another
    processor rounds differently, and images with two tied labels may go either way."""

    artificial: bool = True
    """Whether black, white and random images must be answered as exactly as real ones. int8 takes its scales from real
    images, and a user's own need not reach from black to white."""

    def logit_limit(self, spread: float) -> float:
        """The largest allowed difference between a logit of the file and PyTorch's."""
        return self.absolute + self.of_spread * spread

    def batching_limit(self, spread: float) -> float:
        """The largest allowed difference between an image's logit alone and in a batch."""
        return 1e-4 + self.batching * spread


TOLERANCES = {
    # The same sums in another order: every label is PyTorch's, except where two are tied within the tolerance.
    "fp32": Tolerances(
        absolute=1e-4, of_spread=0, probabilities=1e-4, agreement=1.0, accuracy=1.0, batching=0, verification=2e-4
    ),
    # 11 bits of mantissa: an error of 1/2000 of a value, several times on the way.
    "fp16": Tolerances(
        absolute=1e-3,
        of_spread=2e-3,
        probabilities=4e-3,
        agreement=0.999,
        accuracy=0.999,
        batching=1e-3,
        verification=1e-3,
    ),
    # 8 bits: single logits of single images may be far off, labels may not. Scales are constants, so batching is exact.
    "int8": Tolerances(
        absolute=1e-2,
        of_spread=0.1,
        probabilities=1e-4,
        agreement=0.99,
        accuracy=0.998,
        batching=0,
        verification=2e-3,
        artificial=False,
    ),
}
"""By precision. Sources of the numbers: what rounding does to the study's networks, see docs/export.md."""
