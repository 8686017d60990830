"""Defines the result of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hangtag.training.metrics.class_metrics import ClassFigures


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        image: the image's index in the split.
        true: the true label or set of labels.
        predicted: the predicted label or set of labels.
        probability: the probability of the prediction; None if it is unknown.
        distance: the distance between the two labels: 0 for equal labels, 1 for the farthest pair of labels; None if
            the labels have no distances.
    """

    image: int
    true: str | tuple[str, ...]
    predicted: str | tuple[str, ...]
    probability: float | None
    distance: float | None = None


@dataclass(frozen=True)
class Result:
    """The metrics of a model on a split.

    Attributes:
        figures: the metrics by name, as ``single_label.measure`` or ``multi_label.measure`` describes them.
        labels: the labels' names, in the order of ``classes``.
        classes: precision, recall and F1 of each label.
        mistakes: all mistakes, the most confident first.
        confusion: [true][predicted] is the number of images with these two labels; None for a multi-label model.
    """

    figures: Mapping[str, float | None]
    labels: tuple[str, ...]
    classes: Sequence[ClassFigures]
    mistakes: Sequence[Mistake]
    confusion: list[list[int]] | None = None
