"""Answer a load test of several targets in three lines: which target to take, by how much, and how sure that is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import compare
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.peaks import PRECISION
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load
from hangtag.serving.loadtest.record import stored
from hangtag.serving.loadtest.statistics.intervals import Interval, difference_of_shares


@dataclass(frozen=True)
class Answer:
    """One or two sentences for each of the three questions."""

    which: str = stored()
    how_much: str = stored()
    how_sure: str = stored()


def answer(results: Results) -> Answer | None:
    """Say which target to take; None if there is only one target.

    If peaks were searched, the targets are compared by their peaks. Otherwise they are compared by p99 under the common
    load (in the offline scenario by throughput), and by accuracy if measured. Only a difference that the 95 % intervals
    show counts.
    """
    names = results.scenario.names
    if len(names) < 2:
        return None
    if results.scenario.find_peak:
        return _by_peak(results)
    load = common_load(results)
    runs = {run.target: run for run in results.under(load) if run.valid and run.total.latency} if load else {}
    left_out = ", ".join(name for name in names if name not in runs)
    if load is None or len(runs) < 2:
        which = "None can be named."
        return Answer(which, "No two of them have a VALID run under the same load.", f"Without: {left_out}.")
    front = Front(runs, results.accuracies, by_throughput=results.scenario.scenario == "offline")
    if best := [name for name in front.by_speed(front.fastest) if name in front.most_accurate]:
        fast, *alike = best
        slow = next((name for name in front.by_speed(runs) if name not in best), best[-1])
        which = f"Take {fast}"
        reason = ": no other is shown to be faster" + ", or right more often" * front.knows_accuracy
        if alike:
            reason = f": this test shows no difference from {', '.join(alike)}"
    else:
        fast, slow = front.most_often_right(front.fastest), front.by_speed(front.most_accurate)[0]
        between = [name for name in front.by_speed(runs) if name not in (fast, slow) and not front.is_beaten(name)]
        which = f"Take {slow} for accuracy, {fast} for speed"
        reason = f"; between them {', '.join(between)}" * bool(between)
    slowdown = front.slowdown(slow, fast)
    which += reason if slowdown.known else " by the figures of a single block, which cannot tell how sure that is"
    times = f"{units.ratio(slowdown.estimate)} times as {'slow' if front.by_throughput else 'long'}"
    how_much = f"{fast} {front.speed(fast)} at {load}, {slow} {front.speed(slow)}, {times}."
    how_sure = "The blocks vary too much to be sure. " * slowdown.too_wide
    how_sure += f"95 % intervals: {units.ratio(slowdown.low)} to {units.ratio(slowdown.high)} times"
    if front.knows_accuracy:
        gain = front.gain(slow, fast)
        how_much += f" {fast} is right on {front.accuracy(fast)}, {slow} on {front.accuracy(slow)}."
        how_sure += f", and {100 * gain.low:+.2f} to {100 * gain.high:+.2f} points of accuracy for {slow}"
    how_sure = f"{how_sure}." if slowdown.known else "Unknown: a single block has no interval."
    if not front.knows_accuracy:
        how_sure += " Accuracy was not measured (--accuracy)."
    if any(run.doubt for run in runs.values()):
        how_sure += " DOUBTFUL: other programs took CPU time."
    if left_out:
        how_sure += f" Left out, because they have no VALID run under this load: {left_out}."
    return Answer(f"{which}.", how_much, how_sure)


def _by_peak(results: Results) -> Answer:
    peaks = sorted((peak.rate, peak.target) for peak in results.peaks if peak.rate is not None)
    if len(peaks) < 2:
        unknown = ", ".join(name for name in results.scenario.names if name not in {name for _, name in peaks})
        return Answer("None can be named.", "The peak is known for fewer than two models.", f"Without: {unknown}.")
    (second, other), (best, name) = peaks[-2:]
    apart = best > PRECISION * second
    which = f"Take {name}." if apart else f"Take {name} or {other}: their peaks are too close to tell."
    how_much = f"{name} keeps the target latency up to {units.three_digits(best)} calls/s, {other} up to "
    how_much += f"{units.three_digits(second)}, {units.ratio(second / best)} times that."
    return Answer(which, how_much, f"A peak is known to within {PRECISION - 1:.0%}, and was confirmed by two runs.")


def common_load(results: Results) -> Load | None:
    """Return the load whose figures represent the targets: the load with the most VALID runs; None if no run is VALID.

    Among equal loads this is the lightest open loop, the most similar to real use; otherwise the lightest closed loop.
    """

    def order(load: Load) -> tuple[int, bool]:
        answered = sum(run.valid and bool(run.total.latency) for run in results.under(load))
        return -answered, isinstance(load, ClosedLoop)

    best = min(results.loads, key=order, default=None)
    return best if best is not None and order(best)[0] else None


class Front:
    """Compares targets that ran under one load, as far as the 95 % intervals show which target is better."""

    def __init__(
        self, runs: Mapping[str, Run], accuracies: Mapping[str, Accuracy], *, by_throughput: bool = False
    ) -> None:
        """Compare these runs, by target. `accuracies` count only if every target has an accuracy."""
        self._runs = runs
        self._accuracies = accuracies
        self.by_throughput = by_throughput
        self.knows_accuracy = runs.keys() <= accuracies.keys()
        self._slowdowns: dict[tuple[str, str], Interval] = {}

    def slowdown(self, one: str, other: str) -> Interval:
        """How many times as slow the first target is as the second."""
        pair = (one, other)
        if pair not in self._slowdowns:
            slow, fast = self._runs[one], self._runs[other]
            by_rate = self.by_throughput
            self._slowdowns[pair] = compare(fast, slow).throughput if by_rate else compare(slow, fast).p99
        return self._slowdowns[pair]

    def gain(self, one: str, other: str) -> Interval:
        """How much more often the first target is right, as a share of the samples."""
        mine, theirs = (self._accuracies[name].right for name in (one, other))
        assert mine is not None
        assert theirs is not None
        return difference_of_shares(mine, theirs)

    def is_slower(self, one: str, other: str) -> bool:
        """Whether the first target is shown to be slower than the second."""
        return self.slowdown(one, other).low > 1

    def is_less_accurate(self, one: str, other: str) -> bool:
        """Whether the first target is shown to be right less often than the second."""
        return self.knows_accuracy and self.gain(one, other).high < 0

    def is_beaten(self, name: str) -> bool:
        """Whether another target is shown to be faster and is no less accurate, or more accurate and no slower."""
        for other in self._others(name):
            no_worse = not self.knows_accuracy or self.gain(name, other).estimate <= 0
            no_slower = self.slowdown(name, other).estimate >= 1
            if (self.is_slower(name, other) and no_worse) or (self.is_less_accurate(name, other) and no_slower):
                return True
        return False

    @property
    def fastest(self) -> list[str]:
        """The targets that are not shown to be slower than another; of single blocks, the figures decide."""

        def seems_slower(one: str, other: str) -> bool:
            ratio = self.slowdown(one, other)
            return (ratio.low if ratio.known else ratio.estimate) > 1

        return [name for name in self._runs if not any(seems_slower(name, other) for other in self._others(name))]

    @property
    def most_accurate(self) -> list[str]:
        """The targets that are not shown to be right less often than another target."""
        return [one for one in self._runs if not any(self.is_less_accurate(one, other) for other in self._others(one))]

    def by_speed(self, names: Iterable[str]) -> list[str]:
        """These targets, the fastest first."""
        return sorted(names, key=self._slowness)

    def most_often_right(self, names: Iterable[str]) -> str:
        """The most accurate of these targets."""
        return max(names, key=lambda name: self._accuracies[name].share)

    def speed(self, name: str) -> str:
        """A target's throughput or p99, in words."""
        run = self._runs[name]
        if self.by_throughput:
            return f"answers {units.three_digits(run.samples_per_second)} samples/s"
        return f"has a p99 of {units.duration(run.total.latency.percentile(99))}"

    def accuracy(self, name: str) -> str:
        """How often a target is right, in words."""
        return f"{self._accuracies[name].share:.2%}"

    def _others(self, name: str) -> list[str]:
        return [other for other in self._runs if other != name]

    def _slowness(self, name: str) -> float:
        run = self._runs[name]
        return -run.throughput if self.by_throughput else run.total.latency.percentile(99)
