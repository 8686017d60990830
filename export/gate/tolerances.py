"""Define how far the answers of a file of each precision may differ from PyTorch's: all tolerances of the gate."""

from dataclasses import dataclass

BATCH_SIZES = (1, 2, 3, 7, 16, 64)
"""The batch sizes at which answers are compared. An export may by mistake fix the batch size at 1. Batches of 3 and 7
do not fill a vector register. 64 is a server's largest batch."""

GATE_IMAGES = 10_000
"""The largest number of test images on which answers are compared."""

_ROUNDING = 1e-6
"""Two FP32 sums of the same numbers in different orders differ by at most this share of the logits' spread, which
allows for several rounding errors. The limit matters for networks whose logits reach hundreds."""


@dataclass(frozen=True)
class Tolerances:
    """The requirements for a file of one precision.

    Larger numbers have larger rounding errors, so some limits are shares of the logits' spread: the distance from
    PyTorch's smallest logit on the test set to its largest logit.
    """

    absolute: float
    """A logit may differ from PyTorch's by ``of_spread`` * spread plus the larger of ``absolute`` and 1e-6 * spread."""
    of_spread: float
    probabilities: float
    """A probability may differ by this much from the probability that follows from the file's own logits."""
    agreement: float
    """At least this share of the test set must get PyTorch's label."""
    accuracy: float
    """The file must keep this share of PyTorch's accuracy. If it is 1, only tied labels may differ."""
    batching: float
    """An image's logits, computed alone and in a batch, may differ by ``batching`` * spread, plus the larger of 1e-4
    and 1e-6 * spread."""
    verification: float
    """The accuracy that `hangtag models verify` measures may differ by this much from the recorded accuracy, because
    another processor rounds differently, and images with two tied labels may get either label."""

    artificial: bool = True
    """Whether answers to black, white and random images must be as exact as those to real images. False for int8:
    its scales come from real images, which need not contain black or white pixels."""

    def one_image(self, images: int) -> float:
        """Return the share of the images whose label may change: 1 / images if one label may change, 0 if none may.

        With fewer than 100 images, an agreement of 99 % would allow no change at all. Every image must keep its label
        if there are fewer than 20 images, or if the required agreement is 1, as for FP32.
        """
        return 1 / images if self.agreement < 1 and images >= 20 else 0.0

    def logit_limit(self, spread: float) -> float:
        """The largest allowed difference between a logit of the file and PyTorch's."""
        return max(self.absolute, _ROUNDING * spread) + self.of_spread * spread

    def batching_limit(self, spread: float) -> float:
        """The largest allowed difference between an image's logits, computed alone and in a batch."""
        return max(1e-4, _ROUNDING * spread) + self.batching * spread


TOLERANCES = {
    # The file computes the same FP32 sums in another order, so a label may differ only if two logits are equal within
    # ``absolute``.
    "fp32": Tolerances(
        absolute=1e-4, of_spread=0, probabilities=1e-4, agreement=1.0, accuracy=1.0, batching=0, verification=2e-4
    ),
    # FP16 has 11 bits of mantissa: each of several roundings changes a value by up to 1/2000 of the value.
    "fp16": Tolerances(
        absolute=1e-3,
        of_spread=2e-3,
        probabilities=4e-3,
        agreement=0.999,
        accuracy=0.999,
        batching=1e-3,
        verification=1e-3,
    ),
    # With int8, a few logits may differ by a large amount, but almost all labels must stay the same. The scales are
    # constants, so batching changes no answer.
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
"""Precision -> tolerances, derived from the rounding errors of the study's networks (docs/reference/export.md)."""
