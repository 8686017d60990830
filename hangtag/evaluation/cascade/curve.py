"""Chooses from labelled samples how sure a model of a cascade must be for its answer to be taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.errors import EvaluationError

Floats = npt.NDArray[np.floating]
STEP = 0.005
"""Between two thresholds that are tried: a finer one would fit the samples at hand rather than others."""

SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Point:
    """What a threshold makes of the samples.

    Attributes:
        threshold: An answer is taken whose highest probability is at least this, whichever model gives it.
        reached: The share of the samples that each model answers; of the first it is 1.
        accuracy: The share of the samples that is right.
    """

    threshold: float
    reached: tuple[float, ...]
    accuracy: float

    @property
    def sent_on(self) -> float:
        """The share of the samples that the last model answers."""
        return self.reached[-1]

    def cost(self, times: Sequence[float]) -> float:
        """What a sample costs, as a share of what the last model alone would take.

        Args:
            times: What a sample takes in each model, in any unit.
        """
        return sum(share * time for share, time in zip(self.reached, times, strict=True)) / times[-1]


@dataclass(frozen=True)
class Curve:
    """A point for each threshold, ascending, and the accuracy of each model alone."""

    points: Sequence[Point]
    alone: Sequence[float]

    def shown(self, chosen: Point) -> list[Point]:
        """The points that a table has: some round thresholds, and the chosen one."""
        return [point for point in self.points if point is chosen or point.threshold in SHOWN]

    def cheapest(self, lose_at_most: float) -> Point:
        """The lowest threshold that loses at most so much of the last model's accuracy: the higher, the more goes on.

        Args:
            lose_at_most: A share of the samples: 0.001 is 0.1 points.

        Raises:
            EvaluationError: Every threshold loses more.
        """
        for point in self.points:
            if point.accuracy >= self.alone[-1] - lose_at_most - 1e-12:
                return point
        best = max(self.points, key=lambda point: point.accuracy)
        raise EvaluationError(
            f"every threshold loses more than {lose_at_most:.2%}: at best, at {best.threshold:g}, {best.accuracy:.2%} "
            f"of the samples are right, and the last model alone has {self.alone[-1]:.2%}. Allow a larger loss."
        )


def curve(answers: Sequence[Floats], classes: npt.NDArray[np.integer]) -> Curve:
    """Try every threshold on the highest probability that the models give, one threshold for all of them.

    Args:
        answers: Probabilities of each model, [samples, labels], the fastest model first; two or more.
        classes: The right label of each sample, [samples].
    """
    confidence = [probabilities.max(axis=1) for probabilities in answers[:-1]]
    right = [probabilities.argmax(axis=1) == classes for probabilities in answers]
    points = []
    for threshold in np.arange(0, 1 + STEP / 2, STEP).round(3).tolist():
        answered, goes_on, reached = right[0], np.ones(len(classes), bool), [1.0]
        for sure, next_right in zip(confidence, right[1:], strict=True):
            goes_on = goes_on & ~(sure >= threshold)  # written so that NaN goes on, as on the server
            answered = np.where(goes_on, next_right, answered)
            reached.append(float(goes_on.mean()))
        points.append(Point(threshold, tuple(reached), float(answered.mean())))
    return Curve(points, [float(each.mean()) for each in right])
