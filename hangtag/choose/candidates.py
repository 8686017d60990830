"""Lists the candidates (each model, and each cascade that may be better), ranks them, and chooses one.

A cascade accepts a model's answer if the highest probability in the answer is at least the threshold. Labelled samples
determine the threshold. In this module, a sample is lost if the cascade misclassifies it although the cascade's last
model classifies it correctly. Samples that only the cascade classifies correctly are not subtracted from the lost
samples, because such successes are usually due to chance, or to a best epoch that was chosen on these samples.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, takewhile

import numpy as np
import numpy.typing as npt
import scipy  # importing scipy.special takes a fifth of a second, so scipy imports scipy.special at the first use

from hangtag.serving.model_repository import ModelFile

OUTPUT = "probabilities"
"""The output by which a cascade decides."""
CONFIDENCE = 0.95
"""The confidence level of the upper bound that ``bound`` returns."""
LOSE = 0.001
"""Two limits if no accuracy was requested: how far the accuracy may fall below that of the most accurate model, and
what share of the samples a cascade may misclassify although its last model classifies them correctly."""
IN_FLIGHT = 64
"""The number of calls that a closed loop keeps in flight."""
_STEP = 0.005
"""The difference between two neighbouring thresholds that are tried. A smaller step would overfit to the samples."""
_PAYS = 0.98
"""A cascade is listed only if its cost is at most this share of the cost of the cheapest accurate alternative. The
alternatives are the cascade's models and the shorter cascades of these models."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model with its answers to the labelled samples and its times on this machine."""

    name: str  # as in a route: NAME, or NAME@VERSION
    file: ModelFile  # the measured version
    confidence: npt.NDArray[np.floating]  # the highest probability in the answer to each sample, [samples]
    right: npt.NDArray[np.bool_]  # whether each sample is classified correctly, [samples]
    alone: float  # processor time, in seconds, for a batch of a single sample
    per_sample: float  # processor time per sample, in seconds, if samples are processed in full batches


@dataclass(frozen=True, eq=False)
class Candidate:
    """A single model, or a cascade at one threshold, with its result for the samples. Its performance under a load is
    measured, or, without a load test, predicted as the best possible value."""

    models: tuple[Model, ...]  # in the order in which they answer
    threshold: float  # the probability that an answer of any model but the last must reach; 0 for a single model
    reached: tuple[float, ...]  # for each model, the share of the samples that the model answers; 1 for the first
    accuracy: float  # the share of the samples that are classified correctly
    lost: int  # the number of samples that a cascade misclassifies and its last model classifies correctly
    throughput: float = math.nan  # calls per second with 64 calls in flight, or its predicted upper limit
    p99: float = math.nan  # in seconds, at the requested rate, or with 64 calls in flight if no rate was requested
    is_predicted: bool = True
    overloaded: bool = False  # whether the server cannot answer every call at the requested rate
    problems: tuple[str, ...] = ()  # the reasons why the measurement is invalid, each as a sentence
    doubt: str = ""  # the reason why the measurement is doubtful; empty if there is none

    @property
    def is_cascade(self) -> bool:
        return len(self.models) > 1

    @property
    def name(self) -> str:
        """The names of the models, such as 'lstm-int8 → cnn-int8'."""
        return " → ".join(model.name for model in self.models)

    @property
    def label(self) -> str:
        """The name, and for a cascade also its threshold, such as 'lstm-int8 → cnn-int8 at 0.86'."""
        return f"{self.name} at {self.threshold:g}" if self.is_cascade else self.name

    @property
    def cost(self) -> float:
        """The average processor time per sample, in seconds, if batches are full."""
        return sum(share * model.per_sample for share, model in zip(self.reached, self.models, strict=True))

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
            goes_on = goes_on & ~(model.confidence >= threshold)  # also true for a NaN confidence
            answered = np.where(goes_on, after.right, answered)
            reached.append(float(goes_on.mean()))
        lost = int((models[-1].right & ~answered).sum())
        tried.append(Candidate(tuple(models), threshold, tuple(reached), float(answered.mean()), lost))
    return tried


def best(tried: Sequence[Candidate], accuracy: float, lose_at_most: float) -> Candidate | None:
    """Return the candidate with the lowest threshold that reaches ``accuracy`` and keeps to the limit ``lose_at_most``.

    ``lose_at_most`` limits the share of the samples that the cascade misclassifies although its last model classifies
    them correctly. The samples must show with 95 % confidence that the share is within the limit. If there are too few
    samples to show this, the share must be 0. If no candidate within the limit reaches the accuracy, return the most
    accurate candidate within the limit, or None if there is none.
    """
    samples = len(tried[0].models[0].right)

    def is_within(one: Candidate) -> bool:
        return one.lost == 0 or bound(samples, one.lost) <= lose_at_most

    # Test the thresholds from the safest downwards, and stop before the first one that loses too many samples. Because
    # the thresholds are tested in a fixed order, the result needs no correction for multiple tests (Angelopoulos et
    # al., 2021, "Learn then Test").
    kept = list(takewhile(is_within, reversed(tried)))[::-1]
    reaching = (one for one in kept if one.accuracy >= accuracy - 1e-12)
    return next(reaching, max(kept, key=lambda one: one.accuracy, default=None))


def bound(samples: int, lost: int) -> float:
    """Return an upper bound on the share of new samples that a cascade misclassifies although its last model classifies
    them correctly: the upper limit of the one-sided interval of Clopper and Pearson (1934). It is valid only if no
    model was trained or chosen on these samples, and the cascade was not chosen on them."""
    return float(scipy.special.bdtri(lost, samples, 1 - CONFIDENCE))


def candidates(models: Sequence[Model], accuracy: float, lose_at_most: float = 1.0) -> list[Candidate]:
    """List every model, the fastest first, and every cascade that is cheap enough if it uses the threshold of ``best``.

    In a cascade, each model is slower than the model before it, so it is useful only if it is also more accurate. A
    cascade that does not reach the accuracy is listed if it is more accurate than every model.
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


@dataclass(frozen=True)
class Wanted:
    """The requirements of the user."""

    accuracy: float  # the lowest acceptable accuracy, from 0 to 1
    p99: float | None = None  # the limit for the 99th percentile of the latency, in seconds; None for no limit
    rate: float | None = None  # the calls per second at which ``p99`` applies; None for 64 calls in flight
    lose_at_most: float = 1.0  # the limit for ``Candidate.lost``, as a share of the samples

    def missed_by(self, one: Candidate) -> list[str]:
        """List the missed requirements: "accuracy", "rate", "p99", and "valid load test"."""
        misses = {
            "accuracy": one.accuracy < self.accuracy - 1e-12,
            "rate": one.overloaded,
            "valid load test": bool(one.problems) and not one.overloaded,
            "p99": self.p99 is not None and one.p99 > self.p99,
        }
        return [requirement for requirement, is_missed in misses.items() if is_missed]


def choose(
    models: Sequence[Model], wanted: Wanted, test: Callable[[Sequence[Candidate]], list[Candidate]], tries: int
) -> list[Candidate]:
    """Return the load-tested candidates, best first, followed by the other candidates, best first.

    The first candidate is the one to serve, or the nearest to the requirements if no candidate meets them. ``test``
    returns candidates with the figures of a load test. ``tries`` is the number of candidates to load-test.
    """
    listed = candidates(models, wanted.accuracy, wanted.lose_at_most)
    processors = len(os.sched_getaffinity(0))
    ordered = ranked([limits(one, processors, wanted.rate) for one in listed], wanted)
    accurate = [one for one in ordered if not one.is_cascade and "accuracy" not in wanted.missed_by(one)]
    # A cascade must beat the fastest single model that is accurate enough. Therefore, this model is load-tested too.
    chosen = list(dict.fromkeys([*ordered[:tries], *accurate[:1]])) if tries else []
    tested = ranked(test(chosen), wanted) if chosen else []
    return tested + [one for one in ordered if one not in chosen]


def limits(one: Candidate, processors: int, rate: float | None) -> Candidate:
    """Predict the largest throughput and the shortest p99 that the models' times permit, without a server's overhead.

    If no other batch is running, the server may compute a batch with one thread per processor. With N threads, a batch
    takes at least 1/N of the time that it takes with one thread.
    """
    throughput = processors / one.cost
    alone = sum(model.alone for model, share in zip(one.models, one.reached, strict=True) if share > 0.01)
    p99 = alone / processors
    if rate is None:
        p99 = max(p99, IN_FLIGHT / throughput)  # the mean latency, by Little's law
    return replace(one, throughput=throughput, p99=p99, overloaded=rate is not None and rate > throughput)


def ranked(listed: Sequence[Candidate], wanted: Wanted) -> list[Candidate]:
    """Sort the candidates by how many requirements they miss, so that those that meet all requirements come first.

    Candidates that miss the same number of requirements are sorted by accuracy if that is too low, otherwise by p99 if
    that is too long, otherwise by throughput.
    """

    def key(one: Candidate) -> tuple[int, float, float]:
        missed = wanted.missed_by(one)
        short = wanted.accuracy - one.accuracy if "accuracy" in missed else 0.0
        late = one.p99 if "p99" in missed else 0.0
        return len(missed), short or late, -one.throughput

    return sorted(listed, key=key)
