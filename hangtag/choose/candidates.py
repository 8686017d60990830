"""Lists what could be served: each model, and each cascade of two or three models that pays, at its best threshold.

A cascade takes a model's answer if the model is as sure as the threshold, which is chosen from labelled samples. A
cascade loses a sample if its answer is wrong and the last model's is right. Samples that it gains do not make up for
lost ones: that the faster model is right more often is mostly chance, or its best epoch was chosen by these samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile

import numpy as np
import numpy.typing as npt

from hangtag.choose.losses import most_lost
from hangtag.choose.queueing import Batching, ServiceTimes, Stage
from hangtag.evaluation.errors import EvaluationError

Floats = npt.NDArray[np.floating]
STEP = 0.005
"""The step between thresholds that are tried; a smaller step would fit the samples at hand too closely."""

SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
PAYS = 0.98
"""A cascade pays if it costs less than this share of any one or more of its models that are accurate enough."""


@dataclass(frozen=True)
class Point:
    """What a cascade does with the samples at one threshold.

    Attributes:
        threshold: A model's answer is taken if its highest probability is at least this; it is the same for every
            model.
        reached: The share of the samples that each model answers; 1 for the first model.
        accuracy: The share of the samples that the cascade has right.
        lost: How many samples the cascade has wrong and the last model right.
    """

    threshold: float
    reached: tuple[float, ...]
    accuracy: float
    lost: int = 0


@dataclass(frozen=True)
class Curve:
    """A point for each threshold, ascending, the accuracy of each model alone, and the number of samples."""

    points: Sequence[Point]
    alone: Sequence[float]
    samples: int

    def best(self, accuracy: float, lose_at_most: float) -> Point:
        """The lowest threshold that reaches an accuracy and loses no more than a limit; a higher one sends more on.

        If no threshold does both, the most accurate one that loses no more.

        Args:
            accuracy: A share of the samples.
            lose_at_most: A share of all samples of the kind.
        """
        most = most_lost(self.samples, lose_at_most)
        # From the safest threshold down, and no further than the first that loses more: tested in this fixed order, the
        # last one is shown with the confidence of a single test (Angelopoulos et al., 2021, "Learn then Test").
        kept = list(takewhile(lambda point: point.lost <= most, reversed(self.points)))[::-1] or self.points[-1:]
        reaching = (point for point in kept if point.accuracy >= accuracy - 1e-12)
        return next(reaching, max(kept, key=lambda point: point.accuracy))

    def cheapest(self, lose_at_most: float) -> Point:
        """The lowest threshold that loses at most this much of what the last model has right.

        Args:
            lose_at_most: A share of all samples of the kind: 0.001 is one of a thousand.

        Raises:
            EvaluationError: Every threshold loses more.
        """
        point = self.best(0.0, lose_at_most)
        if point.lost > most_lost(self.samples, lose_at_most):
            raise EvaluationError(
                f"every threshold loses more than {lose_at_most:.2%}: at best, at {point.threshold:g}, the cascade has "
                f"{point.lost:,} of {self.samples:,} samples wrong that the last model alone has right. Allow a larger "
                "loss."
            )
        return point


def shown(points: Sequence[Point], chosen: Point) -> list[Point]:
    """The points that a table has: some round thresholds, and the chosen threshold."""
    return [point for point in points if point is chosen or point.threshold in SHOWN]


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
        lost = int((right[-1] & ~answered).sum())
        points.append(Point(threshold, tuple(reached), float(answered.mean()), lost))
    return Curve(points, [float(each.mean()) for each in right], len(classes))


@dataclass(frozen=True)
class Model:
    """A model that may answer, alone or in a cascade.

    Attributes:
        name: As a route names it: NAME, or NAME@VERSION.
        answers: Probabilities of each label for each sample, [samples, labels].
        times: How long it computes on this machine.
        batching: How a server joins its calls.
    """

    name: str
    answers: Floats
    times: ServiceTimes
    batching: Batching = Batching()  # noqa: RUF009 - it cannot change

    @property
    def stage(self) -> Stage:
        """The model as a stage of a simulation."""
        return Stage(self.times, self.batching)

    def right(self, classes: npt.NDArray[np.integer]) -> float:
        """The share of the samples that the model answers correctly, given the right label of each sample."""
        return float((self.answers.argmax(axis=1) == classes).mean())


@dataclass(frozen=True)
class Candidate:
    """A model alone, or a cascade at one threshold.

    Attributes:
        models: In the order in which they answer.
        point: The outcome for the samples at the threshold. The threshold of a single model is 0, which accepts all
            samples.
        tried: The points of a cascade at every threshold; empty for a model alone.
    """

    models: tuple[Model, ...]
    point: Point
    tried: Sequence[Point]

    @property
    def name(self) -> str:
        """Example: 'lstm-int8 → cnn-int8'."""
        return " → ".join(model.name for model in self.models)

    @property
    def label(self) -> str:
        """Example: 'lstm-int8 → cnn-int8 at 0.86'."""
        return f"{self.name} at {self.point.threshold:g}" if self.is_cascade else self.name

    @property
    def is_cascade(self) -> bool:
        return len(self.models) > 1

    @property
    def accuracy(self) -> float:
        return self.point.accuracy

    @property
    def cost(self) -> float:
        """Seconds of a processor that a sample takes on average, in full batches."""
        return self.cost_at(self.point)

    def cost_at(self, point: Point) -> float:
        """The cost at another threshold of the same cascade."""
        return sum(share * model.times.per_sample for share, model in zip(point.reached, self.models, strict=True))

    @property
    def saved(self) -> float:
        """The share that the cascade saves of what the last model alone costs; negative if the cascade costs more."""
        return 1 - self.cost / self.models[-1].times.per_sample

    @property
    def sent_on(self) -> list[float]:
        """For each stage but the last, the share of its samples that it sends on."""
        reached = self.point.reached
        return [after / max(before, 1e-9) for before, after in pairwise(reached)]


def candidates(
    models: Sequence[Model],
    classes: npt.NDArray[np.integer],
    accuracy: float,
    *,
    lose_at_most: float = 1.0,
    most: int = 3,
) -> list[Candidate]:
    """Every model, and every cascade that pays, at the cheapest threshold that reaches an accuracy.

    In a cascade each model is slower than the model before it and right more often; otherwise the earlier model would
    do. If no threshold of a cascade reaches the accuracy, the cascade has its most accurate threshold, and is listed if
    it is more accurate than every model.

    Args:
        models: With answers to the same samples.
        classes: The right label of each sample, [samples].
        accuracy: The share of the samples that has to be right.
        lose_at_most: The share of all samples of the kind that a cascade may lose.
        most: The most models in a cascade.
    """
    alone = [Candidate((model,), Point(0.0, (1.0,), model.right(classes)), ()) for model in models]
    ordered, highest = sorted(alone, key=lambda one: one.cost), max(one.accuracy for one in alone)
    listed = list(alone)
    for size in range(2, most + 1):
        for members in combinations(ordered, size):
            if any(after.accuracy <= before.accuracy for before, after in pairwise(members)):
                continue
            chain = tuple(one.models[0] for one in members)
            tried = curve([model.answers for model in chain], classes)
            cascade = Candidate(chain, tried.best(accuracy, lose_at_most), tried.points)
            reaches = cascade.accuracy >= accuracy - 1e-12
            pays = reaches and cascade.cost < PAYS * _cheapest_part(listed, chain, accuracy)
            if pays or (not reaches and cascade.accuracy > highest):
                listed.append(cascade)
    return listed


def is_beaten(one: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Whether another candidate costs less and is at least as accurate, or costs as much and is more accurate."""
    return any(
        other.cost <= one.cost
        and other.accuracy >= one.accuracy
        and (other.cost, other.accuracy) != (one.cost, one.accuracy)
        for other in candidates
    )


def in_order(models: Sequence[Model], classes: npt.NDArray[np.integer], lose_at_most: float) -> Candidate:
    """The cascade of these models in this order, at the threshold that costs least.

    Args:
        models: With answers to the same samples, the fastest first.
        classes: The right label of each sample, [samples].
        lose_at_most: The share of all samples of the kind that the cascade may lose.

    Raises:
        EvaluationError: Every threshold loses more.
    """
    tried = curve([model.answers for model in models], classes)
    return Candidate(tuple(models), tried.cheapest(lose_at_most), tried.points)


def _cheapest_part(listed: Sequence[Candidate], chain: tuple[Model, ...], accuracy: float) -> float:
    """The cost of the cheapest candidate that has fewer of these models and reaches the accuracy."""
    costs = [
        one.cost
        for one in listed
        if len(one.models) < len(chain)
        and all(any(model is member for member in chain) for model in one.models)
        and one.accuracy >= accuracy - 1e-12
    ]
    return min(costs, default=math.inf)
