"""Predicts the figures of every candidate, load-tests the best few candidates, and chooses the candidate to serve."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hangtag.choose.candidates import Candidate, candidates, single
from hangtag.choose.measuring import Measured
from hangtag.choose.queueing import Machine, Outcome, simulate
from hangtag.choose.trial import Tested

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
    """The requirements of the user.

    Attributes:
        accuracy: The smallest share of the samples that must be classified correctly.
        p99: The largest 99th-percentile latency in seconds; None for no limit.
        rate: The request rate at which ``p99`` applies, in calls per second; None for a closed loop with 64 calls in
            flight.
        lose_at_most: The largest share of all samples that a cascade may lose.
    """

    accuracy: float
    p99: float | None = None
    rate: float | None = None
    lose_at_most: float = 1.0


def calibrated(measured: Sequence[tuple[Candidate, float]], processors: int) -> Machine:
    """Find the machine parameters for which the simulation predicts the measured throughput of the candidates.

    The overhead of a call is fitted to the throughput of the first model. If the second model is much slower, the
    slowdown of computing in a busy server is fitted to the second model's throughput. The time that a cascade takes to
    call one of its models is fitted to the cascade's throughput.

    Args:
        measured: One or two single models, the faster model first, and optionally a cascade; each with its measured
            throughput with 64 calls in flight, in calls per second.
        processors: The number of the server's processors.
    """
    models = [each for each in measured if not each[0].is_cascade]
    fast, slow = models[0], models[-1]
    machine = Machine(processors, 0.0)
    for _ in range(_REPEATS):
        machine = _fitted(machine, "call_seconds", 0.0, _MOST_CALL_SECONDS, *fast)
        if slow[0].cost <= _APART * fast[0].cost:
            break
        machine = _fitted(machine, "stretch", 1.0, _MOST_STRETCH, *slow)
    for cascade in measured[len(models) :]:
        machine = _fitted(machine, "member_seconds", 0.0, _MOST_CALL_SECONDS, *cascade)
    return machine


def _fitted(
    machine: Machine, parameter: str, low: float, high: float, candidate: Candidate, throughput: float
) -> Machine:
    """Find by bisection the parameter of a machine for which the simulation predicts the measured throughput."""
    stages = [model.stage for model in candidate.models]

    def at(value: float) -> Machine:
        changes: dict[str, Any] = {parameter: value}
        return replace(machine, **changes)

    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slower = simulate(stages, candidate.sent_on, at(middle), calls=2_000).throughput < throughput
        low, high = (low, middle) if slower else (middle, high)
    return at(low)


@dataclass(frozen=True)
class Row:
    """A candidate with its figures.

    Attributes:
        candidate: The candidate.
        predicted: The predicted throughput with 64 calls in flight, and the predicted p99 at the requested rate, or
            with 64 calls in flight if no rate was requested.
        tested: The same figures as the load test measured them; None if the candidate was not load-tested.
    """

    candidate: Candidate
    predicted: Outcome
    tested: Tested | None = None

    @property
    def figures(self) -> Outcome:
        """The measured figures if the candidate was load-tested, else the predicted figures."""
        return self.tested or self.predicted

    def lacks(self, wanted: Wanted) -> list[str]:
        """List the missed requirements: "accuracy", "rate", "p99", and "valid" if the load test is invalid."""
        missed = ["accuracy"] if self.candidate.accuracy < wanted.accuracy - 1e-12 else []
        if self.tested and self.tested.problems:
            missed.append("rate" if self.tested.failed else "valid")
        elif math.isinf(self.figures.p99):
            return [*missed, "rate"]
        return [*missed, "p99"] if wanted.p99 is not None and self.figures.p99 > wanted.p99 else missed


def predict(candidate: Candidate, machine: Machine, rate: float | None) -> Row:
    """Simulate a candidate with 64 calls in flight and, if a rate was requested, at that rate."""
    load = partial(simulate, [model.stage for model in candidate.models], candidate.sent_on, machine)
    peak = load()
    return Row(candidate, replace(peak, p99=load(rate=rate).p99) if rate else peak)


def ranked(rows: Sequence[Row], wanted: Wanted) -> list[Row]:
    """Sort the candidates: first those that meet the requirements, by throughput, then the others, nearest first.

    A candidate is nearer if it misses fewer requirements. Among candidates that miss the same number of requirements,
    those that miss the accuracy are sorted by accuracy, and those that miss p99 or the rate by p99.
    """

    def key(row: Row) -> tuple[int, float, float]:
        missed = row.lacks(wanted)
        short = wanted.accuracy - row.candidate.accuracy if "accuracy" in missed else 0.0
        late = row.figures.p99 if {"p99", "rate"} & set(missed) else 0.0
        return len(missed), short or late, -row.figures.throughput

    return sorted(rows, key=key)


def best_single(rows: Sequence[Row], wanted: Wanted) -> Row | None:
    """Return the first single model that is accurate enough."""
    rivals = (row for row in rows if not row.candidate.is_cascade and "accuracy" not in row.lacks(wanted))
    return next(rivals, None)


@dataclass(frozen=True)
class Choice:
    """The result of choosing.

    Attributes:
        wanted: The requirements, with the default accuracy if no accuracy was requested.
        measured: The models, and the images that they answered.
        rows: The load-tested candidates, best first, followed by the other candidates, best first.
    """

    wanted: Wanted
    measured: Measured
    rows: Sequence[Row]

    @property
    def nearest(self) -> Row:
        """The candidate to serve, or the candidate nearest to the requirements if no candidate meets them."""
        return self.rows[0]

    @property
    def is_met(self) -> bool:
        return not self.nearest.lacks(self.wanted)


def choose(
    measured: Measured,
    test: Callable[[Sequence[Candidate], float | None, float], list[Tested]],
    *,
    accuracy: float | None,
    p99: float | None,
    rate: float | None,
    tries: int,
    seconds: float,
    on_step: Callable[[str], None],
) -> Choice:
    """Choose a model or a cascade from models that were measured.

    Args:
        measured: The models' answers and times.
        test: A function that load-tests candidates, as ``trial.load_test`` does, at a rate and for some seconds.
        accuracy: The share of the images that must be classified correctly. If None, ``LOSE`` determines the required
            accuracy.
        p99: The largest p99, as in ``Wanted``.
        rate: The request rate, as in ``Wanted``.
        tries: The number of candidates to load-test. If the number is 0, the predictions assume that a call has no
            overhead besides computing.
        seconds: The duration of each candidate's test under each load.
        on_step: A function that is called when a step begins, with a sentence that describes the step.

    Raises:
        EvaluationError: The server of the load test does not start, or the test was stopped.
        LoadTestError: The load test fails.
    """
    alone = list(map(single, measured.models))
    wanted = Wanted(max(one.accuracy for one in alone) - LOSE, p99, rate, LOSE)
    if accuracy is not None:
        wanted = Wanted(accuracy, p99, rate)
    listed = candidates(measured.models, wanted.accuracy, lose_at_most=wanted.lose_at_most)
    processors = len(os.sched_getaffinity(0))
    machine = Machine(processors, 0.0)
    if tries:
        fastest = min(alone, key=lambda one: one.cost)
        accurate = max(alone, key=lambda one: (one.accuracy, -one.cost))
        known = [fastest] if fastest is accurate else [fastest, accurate]
        known += [one for one in listed if one.is_cascade][:1]
        on_step(f"Measuring what a call costs in a server, by a load test of {', '.join(one.name for one in known)}.")
        throughputs = [each.throughput for each in test(known, None, _CALIBRATION_SECONDS)]
        machine = calibrated(list(zip(known, throughputs, strict=True)), processors)
    order = ranked([predict(one, machine, rate) for one in listed], wanted)
    if not tries:
        return Choice(wanted, measured, order)
    best = order[:tries]
    # A cascade must beat the fastest single model that is accurate enough. Therefore, this model is load-tested too.
    if (rival := best_single(order, wanted) or order[0]) not in best:
        best.append(rival)
    on_step(f"Load-testing {', '.join(one.candidate.name for one in best)}.")
    figures = test([one.candidate for one in best], rate, seconds)
    tested = [replace(one, tested=each) for one, each in zip(best, figures, strict=True)]
    return Choice(wanted, measured, ranked(tested, wanted) + [one for one in order if one not in best])
