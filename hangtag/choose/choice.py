"""Ranks the candidates by the performance that they can at best have, load-tests the best few, and chooses one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hangtag.choose.candidates import Candidate, Model, Outcome, candidates

LOSE = 0.001
"""If no accuracy was requested, the required accuracy is the most accurate model's accuracy minus this share, and a
cascade may lose at most this share of the samples."""
IN_FLIGHT = 64
"""The number of calls that a closed loop keeps in flight."""


@dataclass(frozen=True)
class Wanted:
    """The requirements of the user."""

    accuracy: float  # the smallest share of the samples that must be classified correctly
    p99: float | None = None  # the largest 99th-percentile latency in seconds; None for no limit
    rate: float | None = None  # the calls per second at which ``p99`` applies; None for 64 calls in flight
    lose_at_most: float = 1.0  # the largest share of all samples that a cascade may lose

    def missed_by(self, one: Candidate) -> list[str]:
        """List the missed requirements: "accuracy", "rate", "p99", and "valid load test"."""
        misses = {
            "accuracy": one.accuracy < self.accuracy - 1e-12,
            "rate": one.figures.overloaded,
            "valid load test": bool(one.figures.problems) and not one.figures.overloaded,
            "p99": self.p99 is not None and one.figures.p99 > self.p99,
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
    ordered = ranked([replace(one, figures=limits(one, processors, wanted.rate)) for one in listed], wanted)
    chosen = ordered[:tries]
    # A cascade must beat the fastest single model that is accurate enough. Therefore, this model is load-tested too.
    if tries and (rival := best_single(ordered, wanted)) and rival not in chosen:
        chosen.append(rival)
    tested = ranked(test(chosen), wanted) if chosen else []
    return tested + [one for one in ordered if one not in chosen]


def limits(one: Candidate, processors: int, rate: float | None) -> Outcome:
    """Return the largest throughput and the shortest p99 that the models' times permit. A real server also needs time
    for each call, and its queues make calls wait."""
    throughput = processors / one.cost
    p99 = sum(model.alone for model, share in zip(one.models, one.reached, strict=True) if share > 0.01)
    if rate is None:
        p99 = max(p99, IN_FLIGHT / throughput)  # the mean latency, by Little's law
    return Outcome(throughput, p99, overloaded=rate is not None and rate > throughput)


def ranked(listed: Sequence[Candidate], wanted: Wanted) -> list[Candidate]:
    """Sort the candidates: first those that meet the requirements, by throughput, then the others, nearest first.

    A candidate is nearer if it misses fewer requirements. Between candidates that miss the same number, the accuracy
    decides if it is missed, otherwise the p99 if it is missed, and otherwise the throughput.
    """

    def key(one: Candidate) -> tuple[int, float, float]:
        missed = wanted.missed_by(one)
        short = wanted.accuracy - one.accuracy if "accuracy" in missed else 0.0
        late = one.figures.p99 if "p99" in missed else 0.0
        return len(missed), short or late, -one.figures.throughput

    return sorted(listed, key=key)


def best_single(listed: Sequence[Candidate], wanted: Wanted) -> Candidate | None:
    """Return the first single model that is accurate enough."""
    return next((one for one in listed if not one.is_cascade and "accuracy" not in wanted.missed_by(one)), None)
