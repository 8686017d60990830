"""Lists the candidates: every model, and the cascades of two or three models that may be better.

A cascade accepts a model's answer if the highest probability in the answer is at least the threshold. Labelled samples
determine the threshold. A cascade loses a sample if the cascade misclassifies the sample and the last model classifies
it correctly. Lost samples are not offset by samples that only the cascade classifies correctly. A faster model that is
more accurate on these samples usually owes this to chance, or to the choice of its best epoch by the same samples.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile

import numpy as np
import numpy.typing as npt
import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

from hangtag.serving.model_repository import ModelFile

OUTPUT = "probabilities"
"""The output by which a cascade decides."""
CONFIDENCE = 0.95
"""The confidence level of the upper bound on the share of lost samples."""
_STEP = 0.005
"""The difference between two neighbouring thresholds that are tried. A smaller step would overfit to the samples."""
_PAYS = 0.98
"""A cascade is listed only if it costs at most this share of the cheapest alternative that is accurate enough. The
alternatives are the cascade's models and the shorter cascades of these models."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model with its answers to the labelled samples and its times on this machine."""

    name: str  # as in a route: NAME, or NAME@VERSION
    file: ModelFile  # the measured version
    confidence: npt.NDArray[np.floating]  # the highest probability in the answer to each sample, [samples]
    right: npt.NDArray[np.bool_]  # whether each sample is classified correctly, [samples]
    alone: float  # the seconds that one processor computes a batch of a single sample
    per_sample: float  # the seconds per sample that one processor computes a full batch


@dataclass(frozen=True)
class Outcome:
    """The performance of a candidate under a load: measured, or predicted as limits of what can be measured."""

    throughput: float = math.nan  # calls per second with 64 calls in flight; if predicted, an upper limit
    p99: float = math.nan  # seconds at the requested rate, or else with 64 calls in flight; if predicted, a lower limit
    is_predicted: bool = True
    overloaded: bool = False  # whether the server cannot answer every call at the requested rate
    problems: tuple[str, ...] = ()  # the reasons why the measurement is invalid, each as a sentence
    doubt: str = ""  # the reason why the measurement is doubtful, if it is


@dataclass(frozen=True, eq=False)
class Candidate:
    """A single model, or a cascade at one threshold, with its result for the samples."""

    models: tuple[Model, ...]  # in the order in which they answer
    threshold: float  # the probability that an answer of any model but the last must reach; 0 for a single model
    reached: tuple[float, ...]  # for each model, the share of the samples that the model answers; 1 for the first
    accuracy: float  # the share of the samples that are classified correctly
    lost: int  # the number of samples that a cascade misclassifies and its last model classifies correctly
    figures: Outcome = Outcome()

    @property
    def is_cascade(self) -> bool:
        return len(self.models) > 1

    @property
    def name(self) -> str:
        """The names of the models, such as 'lstm-int8 → cnn-int8'."""
        return " → ".join(model.name for model in self.models)

    @property
    def label(self) -> str:
        """The name with the threshold of a cascade, such as 'lstm-int8 → cnn-int8 at 0.86'."""
        return f"{self.name} at {self.threshold:g}" if self.is_cascade else self.name

    @property
    def cost(self) -> float:
        """The seconds of processor time that a sample takes on average in full batches."""
        return sum(share * model.per_sample for share, model in zip(self.reached, self.models, strict=True))

    @property
    def relative_cost(self) -> float:
        """The cost, divided by the cost of the last model."""
        return self.cost / self.models[-1].per_sample

    def route(self, description: str = "") -> str:
        """Return the route.toml of a cascade."""
        lines = [
            f"cascade = {json.dumps([model.name for model in self.models])}",
            f'accept = {{output = "{OUTPUT}", at_least = {self.threshold:g}}}',
            'on_overload = "answer"',
            f"expected_sent_on = {self.reached[1]:.4g}",
            *([f"description = {json.dumps(description, ensure_ascii=False)}"] if description else []),
        ]
        return "\n".join(lines)


def curve(models: Sequence[Model]) -> list[Candidate]:
    """Compute the result of a cascade at every threshold, in ascending order. The fastest model comes first."""
    tried = []
    for threshold in np.arange(0, 1 + _STEP / 2, _STEP).round(3).tolist():
        answered, goes_on, reached = models[0].right, np.ones(len(models[0].right), bool), [1.0]
        for model, after in pairwise(models):
            goes_on = goes_on & ~(model.confidence >= threshold)  # NaN is not sure: the next model answers, as served
            answered = np.where(goes_on, after.right, answered)
            reached.append(float(goes_on.mean()))
        lost = int((models[-1].right & ~answered).sum())
        tried.append(Candidate(tuple(models), threshold, tuple(reached), float(answered.mean()), lost))
    return tried


def best(tried: Sequence[Candidate], accuracy: float, lose_at_most: float) -> Candidate | None:
    """Return the lowest threshold of a curve that reaches an accuracy and loses at most a share of the samples.

    A higher threshold would pass more samples on to the next model. The samples must show with 95 % confidence that the
    cascade loses no more than ``lose_at_most``. If there are too few samples to show this, the cascade must not lose
    any. If no threshold within the limit reaches the accuracy, return the most accurate threshold within the limit, or
    None if no threshold is within the limit.
    """
    samples = len(tried[0].models[0].right)

    def is_within(one: Candidate) -> bool:
        return one.lost == 0 or bound(samples, one.lost) <= lose_at_most

    # Test the thresholds from the safest downwards, and stop before the first threshold that exceeds the limit. Because
    # the order is fixed, the lowest accepted threshold has the confidence of a single test (Angelopoulos et al., 2021,
    # "Learn then Test").
    kept = list(takewhile(is_within, reversed(tried)))[::-1]
    reaching = (one for one in kept if one.accuracy >= accuracy - 1e-12)
    return next(reaching, max(kept, key=lambda one: one.accuracy, default=None))


def bound(samples: int, lost: int) -> float:
    """Return an upper bound on the share of samples that a cascade loses in the long run: the upper limit of the
    one-sided interval of Clopper and Pearson (1934). It is valid if the samples were used neither to train or choose a
    model nor to choose the cascade."""
    return float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))


def candidates(models: Sequence[Model], accuracy: float, lose_at_most: float = 1.0) -> list[Candidate]:
    """List every model, the fastest first, and every cascade that is cheap enough, at the threshold of ``best``.

    In a cascade, each model is slower and more accurate than the model before it; otherwise the earlier model would be
    enough. A cascade that does not reach the accuracy is listed if it is more accurate than every model.
    """
    ordered = sorted(models, key=lambda model: model.per_sample)
    listed = [curve([model])[0] for model in ordered]
    highest = max(one.accuracy for one in listed)
    for chain in [*combinations(ordered, 2), *combinations(ordered, 3)]:
        is_rising = all(before.right.sum() < after.right.sum() for before, after in pairwise(chain))
        if not is_rising or (cascade := best(curve(chain), accuracy, lose_at_most)) is None:
            continue
        accurate = [one for one in [*listed, cascade] if one.accuracy >= accuracy - 1e-12]
        parts = [one.cost for one in accurate if set(one.models) < set(chain)]
        pays = cascade in accurate and cascade.cost < _PAYS * min(parts, default=math.inf)
        if pays or (cascade not in accurate and cascade.accuracy > highest):
            listed.append(cascade)
    return listed
