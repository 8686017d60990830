"""Predicts the performance of every candidate, load-tests the best few, and chooses the candidate to serve."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hangtag.choose.candidates import Candidate, Model, candidates
from hangtag.choose.queueing import Machine, simulate

LOSE = 0.001
"""If no accuracy was requested, the required accuracy is the most accurate model's accuracy minus this share, and a
cascade may lose at most this share of the samples."""
_CALIBRATION_SECONDS = 1.5
_BISECTIONS = 20
_REPEATS = 3
_MOST_CALL_SECONDS = 0.02
_MOST_STRETCH = 3.0
_APART = 2.0
"""The smallest ratio of the slow model's cost to the fast model's cost at which `Machine.stretch` can be measured."""


@dataclass(frozen=True)
class Wanted:
    """The requirements of the user."""

    accuracy: float  # the smallest share of the samples that must be classified correctly
    p99: float | None = None  # the largest 99th-percentile latency in seconds; None for no limit
    rate: float | None = None  # the calls per second at which ``p99`` applies; None for 64 calls in flight
    lose_at_most: float = 1.0  # the largest share of all samples that a cascade may lose

    def missed_by(self, one: Candidate) -> list[str]:
        """List the missed requirements: "accuracy", "rate", "p99", and "valid" if the load test is invalid."""
        misses = {
            "accuracy": one.accuracy < self.accuracy - 1e-12,
            "rate": one.figures.failed > 0,
            "valid": bool(one.figures.problems) and not one.figures.failed,
            "p99": self.p99 is not None and one.figures.p99 > self.p99,
        }
        return [requirement for requirement, is_missed in misses.items() if is_missed]


def choose(
    models: Sequence[Model],
    wanted: Wanted,
    test: Callable[[Sequence[Candidate], float | None, float], list[Candidate]],
    *,
    tries: int,
    seconds: float,
    on_step: Callable[[str], None],
) -> list[Candidate]:
    """Return the load-tested candidates, best first, followed by the other candidates, best first.

    The first candidate is the one to serve, or the nearest to the requirements if no candidate meets them. ``test``
    load-tests candidates at a rate for some seconds, and raises the same errors as ``trial.load_test``. ``tries`` is
    the number of candidates to load-test. With 0, the predictions assume that a call has no overhead.
    """
    listed = candidates(models, wanted.accuracy, wanted.lose_at_most)
    machine = Machine(len(os.sched_getaffinity(0)))
    if tries:
        cascades = [one for one in listed if one.is_cascade]
        most_accurate = max(listed[: len(models)], key=lambda one: one.accuracy)
        known = list(dict.fromkeys([listed[0], most_accurate, *cascades[:1]]))  # the first model is the fastest
        on_step(f"Measuring what a call costs in a server, by a load test of {', '.join(one.name for one in known)}.")
        machine = calibrated(test(known, None, _CALIBRATION_SECONDS), machine)
    rest = ranked([predicted(one, machine, wanted.rate) for one in listed], wanted)
    if not tries:
        return rest
    chosen = rest[:tries]
    # A cascade must beat the fastest single model that is accurate enough. Therefore, this model is load-tested too.
    if (rival := best_single(rest, wanted)) and rival not in chosen:
        chosen.append(rival)
    on_step(f"Load-testing {', '.join(one.name for one in chosen)}.")
    return ranked(test(chosen, wanted.rate, seconds), wanted) + [one for one in rest if one not in chosen]


def calibrated(tested: Sequence[Candidate], machine: Machine) -> Machine:
    """Find the machine parameters for which the simulation predicts the measured throughput of the candidates.

    The candidates are one or two models, the faster first, and perhaps a cascade. The first model's throughput
    determines ``call_seconds``. The second model's throughput determines ``stretch``, if this model is much slower than
    the first. The cascade's throughput determines ``member_seconds``.
    """
    models = [one for one in tested if not one.is_cascade]
    fast, slow = models[0], models[-1]
    for _ in range(_REPEATS):
        machine = _fitted(machine, "call_seconds", (0.0, _MOST_CALL_SECONDS), fast)
        if slow.cost <= _APART * fast.cost:
            break
        machine = _fitted(machine, "stretch", (1.0, _MOST_STRETCH), slow)
    for cascade in tested[len(models) :]:
        machine = _fitted(machine, "member_seconds", (0.0, _MOST_CALL_SECONDS), cascade)
    return machine


def _fitted(machine: Machine, parameter: str, between: tuple[float, float], one: Candidate) -> Machine:
    """Find by bisection the parameter of a machine for which the simulation predicts a candidate's throughput."""
    low, high = between
    changes: dict[str, Any] = {}
    for _ in range(_BISECTIONS):
        changes[parameter] = (low + high) / 2
        slower = simulate(one, replace(machine, **changes), calls=2_000).throughput < one.figures.throughput
        low, high = (low, changes[parameter]) if slower else (changes[parameter], high)
    return replace(machine, **changes)


def predicted(one: Candidate, machine: Machine, rate: float | None) -> Candidate:
    """Simulate a candidate with 64 calls in flight and, if a rate was requested, at that rate."""
    peak = simulate(one, machine)
    at_rate = simulate(one, machine, rate) if rate else peak
    return replace(one, predicted=replace(at_rate, throughput=peak.throughput))


def ranked(listed: Sequence[Candidate], wanted: Wanted) -> list[Candidate]:
    """Sort the candidates: first those that meet the requirements, by throughput, then the others, nearest first.

    A candidate is nearer if it misses fewer requirements. Between candidates that miss the same number, the accuracy
    decides if it is missed, and otherwise the p99.
    """

    def key(one: Candidate) -> tuple[int, float, float]:
        missed = wanted.missed_by(one)
        short = wanted.accuracy - one.accuracy if "accuracy" in missed else 0.0
        late = one.figures.p99 if {"p99", "rate"} & set(missed) else 0.0
        return len(missed), short or late, -one.figures.throughput

    return sorted(listed, key=key)


def best_single(listed: Sequence[Candidate], wanted: Wanted) -> Candidate | None:
    """Return the first single model that is accurate enough."""
    return next((one for one in listed if not one.is_cascade and "accuracy" not in wanted.missed_by(one)), None)
