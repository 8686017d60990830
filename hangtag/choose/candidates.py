"""Lists the candidates: each model, and each cascade of two or three models that costs less than its parts.

A cascade accepts a model's answer if the highest probability in the answer is at least the threshold. Labelled samples
determine the threshold. A cascade loses a sample if the cascade misclassifies the sample and the last model classifies
it correctly. Lost samples are not offset by samples that only the cascade classifies correctly. A faster model that is
more accurate on these samples usually owes this to chance, or to the choice of its best epoch by the same samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile

import numpy as np
import numpy.typing as npt

from hangtag.choose.loss_bound import shows_at_most
from hangtag.choose.queueing import Stage
from hangtag.serving.model_repository import ModelFile

Floats = npt.NDArray[np.floating]
STEP = 0.005
"""The difference between two neighbouring thresholds that are tried. A smaller step would overfit to the samples."""

SHOWN = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
PAYS = 0.98
"""A cascade is listed only if it costs at most this share of the cost of its cheapest part that is accurate enough. A
part is one of the cascade's models, or a cascade of some of its models."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model that can be served by itself or in a cascade, with its answers to labelled samples.

    Attributes:
        name: The name that a route gives to the model: NAME, or NAME@VERSION.
        confidence: The highest probability in the answer to each sample, [samples].
        right: Whether the model classifies each sample correctly, [samples].
        stage: The model's times on this machine and its settings, for a simulation.
        file: The measured version.
    """

    name: str
    confidence: Floats
    right: npt.NDArray[np.bool_]
    stage: Stage
    file: ModelFile

    @property
    def accuracy(self) -> float:
        """The share of the samples that the model classifies correctly."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Point:
    """The result of a cascade for the samples at one threshold.

    Attributes:
        threshold: The cascade accepts an answer whose highest probability is at least the threshold, which is the same
            for all models of the cascade.
        reached: For each model, the share of the samples that the model answers; 1 for the first model.
        accuracy: The share of the samples that the cascade classifies correctly.
        lost: The number of samples that the cascade misclassifies and the last model classifies correctly.
    """

    threshold: float
    reached: tuple[float, ...]
    accuracy: float
    lost: int = 0


def best(points: Sequence[Point], samples: int, accuracy: float, lose_at_most: float) -> Point:
    """Return the lowest threshold at which a cascade reaches an accuracy and loses no more than a limit.

    A higher threshold would pass more samples on to the next model. If no threshold within the limit reaches the
    accuracy, return the most accurate threshold within the limit.

    Args:
        points: A point for each threshold, in ascending order.
        samples: The number of samples.
        accuracy: The accuracy, as a share of the samples.
        lose_at_most: The limit, as a share of the samples: 0.001 is one sample of a thousand.
    """
    # Test the thresholds from the safest downwards, and stop before the first threshold that exceeds the limit. Because
    # the order is fixed, the lowest accepted threshold has the confidence of a single test (Angelopoulos et al., 2021,
    # "Learn then Test").
    kept = list(takewhile(lambda point: shows_at_most(lose_at_most, samples, point.lost), reversed(points)))
    kept = kept[::-1] or [points[-1]]
    reaching = (point for point in kept if point.accuracy >= accuracy - 1e-12)
    return next(reaching, max(kept, key=lambda point: point.accuracy))


def shown(points: Sequence[Point], chosen: Point) -> list[Point]:
    """Return the points that a table shows: the points of some round thresholds, and the chosen point."""
    return [point for point in points if point is chosen or point.threshold in SHOWN]


def curve(models: Sequence[Model]) -> list[Point]:
    """Compute the result of a cascade at every threshold, in ascending order.

    Args:
        models: Two or more models, which have answered the same samples. The fastest model comes first.
    """
    points = []
    for threshold in np.arange(0, 1 + STEP / 2, STEP).round(3).tolist():
        answered, goes_on, reached = models[0].right, np.ones(len(models[0].right), bool), [1.0]
        for model, after in pairwise(models):
            goes_on = goes_on & ~(model.confidence >= threshold)  # NaN is not sure: the next model answers, as served
            answered = np.where(goes_on, after.right, answered)
            reached.append(float(goes_on.mean()))
        lost = int((models[-1].right & ~answered).sum())
        points.append(Point(threshold, tuple(reached), float(answered.mean()), lost))
    return points


@dataclass(frozen=True, eq=False)
class Candidate:
    """A single model, or a cascade at one threshold.

    Attributes:
        models: The models, in the order in which they answer.
        point: The result for the samples at the threshold. The threshold of a single model is 0, which accepts all
            samples.
        tried: The results of a cascade at all thresholds; empty for a single model.
    """

    models: tuple[Model, ...]
    point: Point
    tried: Sequence[Point]

    @property
    def name(self) -> str:
        """The names of the models, such as 'lstm-int8 → cnn-int8'."""
        return " → ".join(model.name for model in self.models)

    @property
    def label(self) -> str:
        """The name with the threshold of a cascade, such as 'lstm-int8 → cnn-int8 at 0.86'."""
        return f"{self.name} at {self.point.threshold:g}" if self.is_cascade else self.name

    @property
    def is_cascade(self) -> bool:
        return len(self.models) > 1

    @property
    def accuracy(self) -> float:
        return self.point.accuracy

    @property
    def cost(self) -> float:
        """The seconds of processor time that a sample takes on average in full batches."""
        return self.cost_at(self.point)

    def cost_at(self, point: Point) -> float:
        """Return the cost of the same cascade at another threshold."""
        return sum(share * model.stage.per_sample for share, model in zip(point.reached, self.models, strict=True))

    def relative_cost(self, point: Point) -> float:
        """Return the cost of the same cascade at a threshold, divided by the cost of its last model."""
        return self.cost_at(point) / self.models[-1].stage.per_sample

    @property
    def sent_on(self) -> list[float]:
        """For each stage except the last, the share of its samples that the stage passes on to the next stage."""
        reached = self.point.reached
        return [after / max(before, 1e-9) for before, after in pairwise(reached)]


def single(model: Model) -> Candidate:
    """Return a model that serves by itself."""
    return Candidate((model,), Point(0.0, (1.0,), model.accuracy), ())


def cascade_of(models: Sequence[Model], accuracy: float, lose_at_most: float) -> Candidate:
    """Return the cascade of models in this order, at the threshold that ``best`` chooses."""
    tried = curve(models)
    return Candidate(tuple(models), best(tried, len(models[0].right), accuracy, lose_at_most), tried)


def candidates(models: Sequence[Model], accuracy: float, *, lose_at_most: float = 1.0) -> list[Candidate]:
    """List every model and every cascade that is cheap enough, each cascade at its cheapest accurate threshold.

    A threshold is accurate if the cascade reaches ``accuracy``. In a cascade, each model is slower and more accurate
    than the model before it; otherwise the earlier model would be enough. If no threshold of a cascade reaches the
    accuracy, the cascade gets its most accurate threshold, and is listed if the cascade is more accurate than every
    model.

    Args:
        models: The models, which have answered the same samples.
        accuracy: The share of the samples that must be classified correctly.
        lose_at_most: The largest share of samples that a cascade may lose, with 95 % confidence.
    """
    listed = list(map(single, models))
    highest = max(model.accuracy for model in models)
    ordered = sorted(models, key=lambda model: model.stage.per_sample)
    for chain in [*combinations(ordered, 2), *combinations(ordered, 3)]:
        if any(after.accuracy <= before.accuracy for before, after in pairwise(chain)):
            continue
        cascade = cascade_of(chain, accuracy, lose_at_most)
        accurate = [one for one in [*listed, cascade] if one.accuracy >= accuracy - 1e-12]
        parts = [one.cost for one in accurate if set(one.models) < set(chain)]
        pays = cascade in accurate and cascade.cost < PAYS * min(parts, default=math.inf)
        if pays or (cascade not in accurate and cascade.accuracy > highest):
            listed.append(cascade)
    return listed
