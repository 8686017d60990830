"""Chooses from labelled samples how sure the first model of a cascade must be for its answer to be taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.errors import EvaluationError

Floats = npt.NDArray[np.floating]
STEP = 0.005
"""Between two thresholds that are tried: a finer one would fit the samples at hand rather than others."""


@dataclass(frozen=True)
class Point:
    """What a threshold makes of the samples: the shares that go on to the second model, and that are right."""

    threshold: float
    sent_on: float
    accuracy: float


@dataclass(frozen=True)
class Curve:
    """A point for each threshold, ascending, and the accuracy of each model alone."""

    points: Sequence[Point]
    first: float
    second: float

    def cheapest(self, lose_at_most: float) -> Point:
        """The lowest threshold that loses at most so much of the second model's accuracy.

        Args:
            lose_at_most: A share of the samples: 0.001 is 0.1 points.

        Raises:
            EvaluationError: Every threshold loses more.
        """
        for point in self.points:
            if point.accuracy >= self.second - lose_at_most - 1e-12:
                return point
        best = max(self.points, key=lambda point: point.accuracy)
        raise EvaluationError(
            f"every threshold loses more than {lose_at_most:.2%}: at best, at {best.threshold:g}, {best.accuracy:.2%} "
            f"of the samples are right, and the second model alone has {self.second:.2%}. Allow a larger loss."
        )


def curve(first: Floats, second: Floats, classes: npt.NDArray[np.integer]) -> Curve:
    """Try every threshold on the highest probability of the first model.

    Args:
        first: Probabilities of the fast model, [samples, labels].
        second: Probabilities of the accurate model, [samples, labels].
        classes: The right label of each sample, [samples].
    """
    confidence = first.max(axis=1)
    first_right, second_right = (model.argmax(axis=1) == classes for model in (first, second))
    points = []
    for threshold in np.arange(0, 1 + STEP / 2, STEP).round(3).tolist():
        accepted = confidence >= threshold
        accuracy = float(np.where(accepted, first_right, second_right).mean())
        points.append(Point(threshold, float(1 - accepted.mean()), accuracy))
    return Curve(points, float(first_right.mean()), float(second_right.mean()))
