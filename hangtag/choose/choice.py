"""Chooses: measures the models, predicts every candidate, load-tests the best few, and says which candidate to
serve."""

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hangtag.choose.candidates import Candidate, candidates
from hangtag.choose.measuring import Measured
from hangtag.choose.queueing import Machine, Outcome, simulate
from hangtag.choose.trial import Tested, load_test
from hangtag.serving.loadtest.measuring.load_test import OnProgress
from hangtag.serving.loadtest.statistics.intervals import Interval, wilson

LOSE = 0.001
"""If no accuracy was requested: how far below the most accurate model's accuracy a candidate may be, and the share of
all samples that a cascade may lose."""
_CALIBRATION_SECONDS = 1.5
_BISECTIONS = 20
_REPEATS = 3
_MOST_CALL_SECONDS = 0.02
_MOST_STRETCH = 3.0
_APART = 2.0
"""How many times as long a sample of the slow model has to take as one of the fast model, to tell the figures apart."""


@dataclass(frozen=True)
class Wanted:
    """The requirements.

    Attributes:
        accuracy: The least share of the samples that must be right.
        p99: The latency in seconds that 99 of 100 calls keep; None: any.
        rate: The calls per second at which p99 is kept; None: 64 in flight, as fast as they are answered.
        lose_at_most: The share of all samples that a cascade may lose.
    """

    accuracy: float
    p99: float | None = None
    rate: float | None = None
    lose_at_most: float = 1.0


@dataclass(frozen=True)
class Predicted:
    """A candidate and its predicted figures.

    Attributes:
        candidate: The candidate.
        peak: The outcome with 64 calls in flight.
        at_rate: The outcome at the requested rate; ``peak`` if no rate was requested.
    """

    candidate: Candidate
    peak: Outcome
    at_rate: Outcome


def predict(candidate: Candidate, machine: Machine, rate: float | None) -> Predicted:
    """Simulate a candidate with 64 calls in flight and, if a rate was requested, at that rate."""
    stages = [model.stage for model in candidate.models]
    peak = simulate(stages, candidate.sent_on, machine)
    return Predicted(candidate, peak, simulate(stages, candidate.sent_on, machine, rate=rate) if rate else peak)


def calibrated(measured: Sequence[tuple[Candidate, float]], processors: int) -> Machine:
    """The machine on which candidates have the throughput that was measured.

    The first model shows what a call costs besides computing. If the second model is slower by far, it shows how much
    longer computing takes in a server. A cascade shows what it costs to ask a member.

    Args:
        measured: One or two models alone, the faster first, and perhaps a cascade; their calls a second with 64 in
            flight.
        processors: How many processors the server had.
    """
    models = [each for each in measured if not each[0].is_cascade]
    fast, slow = models[0], models[-1]
    overhead, stretch = 0.0, 1.0
    for _ in range(_REPEATS):
        overhead = _solve(fast, partial(Machine, processors, stretch=stretch), 0.0, _MOST_CALL_SECONDS)
        if slow[0].cost <= _APART * fast[0].cost:
            break
        stretch = _solve(slow, partial(Machine, processors, overhead), 1.0, _MOST_STRETCH)
    machine = Machine(processors, overhead, stretch)
    for cascade in measured[len(models) :]:
        asking = _solve(cascade, partial(Machine, processors, overhead, stretch), 0.0, _MOST_CALL_SECONDS)
        machine = replace(machine, member_seconds=asking)
    return machine


def _solve(measured: tuple[Candidate, float], machine: Callable[[float], Machine], low: float, high: float) -> float:
    """The figure, between two bounds, with which the machine gives a candidate its throughput with 64 in flight."""
    candidate, throughput = measured
    stages = [model.stage for model in candidate.models]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slower = simulate(stages, candidate.sent_on, machine(middle), calls=2_000).throughput < throughput
        low, high = (low, middle) if slower else (middle, high)
    return low


@dataclass(frozen=True)
class Row:
    """A candidate with its predicted figures, and with its measured ones if it was load-tested."""

    predicted: Predicted
    tested: Tested | None = None

    @property
    def candidate(self) -> Candidate:
        return self.predicted.candidate

    @property
    def accuracy(self) -> float:
        """The share of the images that are right: measured if the candidate was load-tested, else computed."""
        return self.tested.accuracy if self.tested else self.candidate.accuracy

    @property
    def throughput(self) -> float:
        """Calls per second with 64 in flight: measured if the candidate was load-tested, else predicted."""
        return self.tested.throughput if self.tested else self.predicted.peak.throughput

    @property
    def p99(self) -> float:
        """In seconds, at the requested rate or else with 64 in flight: measured if load-tested, else predicted."""
        return self.tested.p99 if self.tested else self.predicted.at_rate.p99

    def lacks(self, wanted: Wanted) -> list[str]:
        """The requirements that the candidate misses: "accuracy", "rate", "valid" (its load test) and "p99"."""
        missed = ["accuracy"] if self.accuracy < wanted.accuracy - 1e-12 else []
        if self.tested and self.tested.problems:
            missed.append("rate" if self.tested.failed else "valid")
        elif math.isinf(self.p99):
            return [*missed, "rate"]
        return [*missed, "p99"] if wanted.p99 is not None and self.p99 > wanted.p99 else missed


def ranked(rows: Sequence[Row], wanted: Wanted) -> list[Row]:
    """Sort the candidates: first those that meet the requirements, by throughput; then the others, the nearest first.

    A candidate is nearer if it misses fewer requirements; among equals, if its accuracy is higher and was missed, else
    if its p99 is lower and p99 or the rate was missed.
    """

    def key(row: Row) -> tuple[int, float, float]:
        missed = row.lacks(wanted)
        short = wanted.accuracy - row.accuracy if "accuracy" in missed else 0.0
        late = row.p99 if {"p99", "rate"} & set(missed) else 0.0
        return len(missed), short or late, -row.throughput

    return sorted(rows, key=key)


@dataclass(frozen=True)
class Choice:
    """The result of choosing.

    Attributes:
        wanted: The requirements, with the default accuracy if none was requested.
        measured: The models, and the images that they answered.
        rows: The load-tested candidates, then the others; the best first.
        machine: Where the candidates were predicted to run.
    """

    wanted: Wanted
    measured: Measured
    rows: Sequence[Row]
    machine: Machine

    @property
    def nearest(self) -> Row:
        """The candidate to serve or, if no candidate meets the requirements, the nearest candidate."""
        return self.rows[0]

    @property
    def is_met(self) -> bool:
        return not self.nearest.lacks(self.wanted)

    @property
    def interval(self) -> Interval:
        """The accuracy with its 95 % confidence interval, for other images of the same kind."""
        images = len(self.measured.classes)
        return wilson(round(self.nearest.candidate.accuracy * images), images)


def choose(
    repository: Path,
    measured: Measured,
    *,
    accuracy: float | None,
    p99: float | None,
    rate: float | None,
    tries: int,
    seconds: float,
    on_step: Callable[[str], None],
    on_progress: OnProgress,
    stop: threading.Event,
) -> Choice:
    """Choose from models that were measured.

    Args:
        repository: The model repository.
        measured: The models' answers and times.
        accuracy: The share of the images that has to be right; None: the most accurate model's share, less LOSE, and a
            cascade may lose LOSE.
        p99: In seconds; None: any.
        rate: Calls per second at which p99 must be kept; None: with 64 in flight.
        tries: How many candidates are load-tested; with 0, a call is assumed to cost nothing but computing.
        seconds: How long each candidate is tested under each load.
        on_step: Receives a sentence when a step begins.
        on_progress: Receives the load tests' progress.
        stop: Once it is set, the load test ends.

    Raises:
        EvaluationError: The server of the load test does not start, or the test was stopped.
        LoadTestError: The load test fails.
    """
    alone = candidates(measured.models, measured.classes, 0.0, most=1)
    wanted = Wanted(max(one.accuracy for one in alone) - LOSE, p99, rate, LOSE)
    if accuracy is not None:
        wanted = Wanted(accuracy, p99, rate)
    listed = candidates(measured.models, measured.classes, wanted.accuracy, lose_at_most=wanted.lose_at_most)
    processors = len(os.sched_getaffinity(0))

    def test(chosen: Sequence[Candidate], at: float | None, duration: float) -> list[Tested]:
        return load_test(
            repository, chosen, measured, rate=at, seconds=duration, on_progress=on_progress, stop=stop
        )  # fmt: skip

    machine = Machine(processors, 0.0)
    if tries:
        fastest = min(alone, key=lambda one: one.cost)
        accurate = max(alone, key=lambda one: (one.accuracy, -one.cost))
        known = [fastest] if fastest is accurate else [fastest, accurate]
        known += [one for one in listed if one.is_cascade][:1]
        on_step(f"What a call costs in a server: a load test of {', '.join(one.name for one in known)}.")
        throughputs = [each.throughput for each in test(known, None, _CALIBRATION_SECONDS)]
        machine = calibrated(list(zip(known, throughputs, strict=True)), processors)
    order = ranked([Row(predict(one, machine, rate)) for one in listed], wanted)
    best = order[:tries]
    # A cascade has to be better than the fastest model alone, so the load test includes that model.
    rivals = (one for one in order if not one.candidate.is_cascade and "accuracy" not in one.lacks(wanted))
    if tries and (rival := next(rivals, order[0])) not in best:
        best.append(rival)
    figures = list[Tested]()
    if best:
        on_step(f"The load test: {', '.join(one.candidate.name for one in best)}.")
        figures = test([one.candidate for one in best], rate, seconds)
    tested = [Row(one.predicted, each) for one, each in zip(best, figures, strict=True)]
    return Choice(wanted, measured, ranked(tested, wanted) + [one for one in order if one not in best], machine)
