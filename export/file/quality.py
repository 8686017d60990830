"""How good a model is: the test figure that its metadata records, and the data that the figure was measured on."""

from collections.abc import Mapping
from dataclasses import dataclass

FIGURES = ("test_accuracy", "test_exact_match")
"""The metadata's keys. Both are shares of the test set: images with the right label, or with exactly their labels."""


@dataclass(frozen=True)
class Quality:
    """The most telling test figure of a model."""

    figure: str
    """One of FIGURES."""
    share: float
    data_digest: str
    """Of the whole data set; empty where the file does not record it."""

    def __str__(self) -> str:
        return f"{self.figure.replace('_', ' ')} {self.share:.2%}"


def read(metadata: Mapping[str, str]) -> Quality | None:
    """Read the quality from a file's metadata; None if it records none, or no share."""
    for figure in FIGURES:
        try:
            share = float(metadata[figure])
        except (KeyError, ValueError):
            continue
        if 0 <= share <= 1:
            return Quality(figure, share, metadata.get("data_digest", ""))
    return None
