"""How exact the file of each precision must be. All tolerances are defined here."""

from dataclasses import dataclass

BATCH_SIZES = (1, 2, 3, 7, 16, 64)
"""Answers are compared at these sizes. An export may freeze an axis of size 1; sizes 3 and 7 do not fill a vector
register; 64 is a server's largest batch."""

GATE_IMAGES = 10_000
"""The largest number of images of the test split that are compared."""


@dataclass(frozen=True)
class Tolerances:
    """The requirements for a file of one precision.

    Larger numbers have larger rounding errors, so some limits are shares of the logits' spread: the distance from
    PyTorch's smallest logit on the test set to its largest logit.
    """

    absolute: float
    """A logit may differ from PyTorch's by this much, plus ``of_spread`` times the spread."""
    of_spread: float
    probabilities: float
    """A probability may differ by this much from the probability that follows from the file's own logits."""
    agreement: float
    """At least this share of the test set must get PyTorch's label."""
    accuracy: float
    """The file must keep this share of PyTorch's accuracy. At 1.0 only images with two tied labels may become wrong."""
    batching: float
    """An image's logit alone and in a batch may differ by 1e-4, plus this share of the spread."""
    verification: float
    """The accuracy that `hangtag models verify` measures may differ by this much from the recorded accuracy, because
    another processor rounds differently, and images with two tied labels may get either label."""

    artificial: bool = True
    """Whether answers to black, white and random images must be as exact as those to real images. int8 takes its scales
    from real images, and a user's images may not reach from black to white."""

    def one_image(self, images: int) -> float:
        """The share that one image is, if one of so many may change its label; else 0.

        In fewer than 100 images a share of 99 % would allow no change at all. 20 images are the fewest that can show a
        loss; in FP32 every label is the same.
        """
        return 1 / images if self.agreement < 1 and images >= 20 else 0.0

    def logit_limit(self, spread: float) -> float:
        """The largest allowed difference between a logit of the file and PyTorch's."""
        return self.absolute + self.of_spread * spread

    def batching_limit(self, spread: float) -> float:
        """The largest allowed difference between an image's logit alone and in a batch."""
        return 1e-4 + self.batching * spread


TOLERANCES = {
    # The same sums in another order: every label is PyTorch's, unless two are tied within the tolerance.
    "fp32": Tolerances(
        absolute=1e-4, of_spread=0, probabilities=1e-4, agreement=1.0, accuracy=1.0, batching=0, verification=2e-4
    ),
    # 11 bits of mantissa: each of several roundings changes a value by up to 1/2000 of it.
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
"""Precision -> tolerances. Derived from rounding errors of the study's networks, see docs/reference/export.md."""
