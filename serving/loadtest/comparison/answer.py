"""Says in three lines which target of a load test to choose, by how much it is better, and how sure that is."""

from collections import Counter
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.comparison.compare import compare
from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.measuring.peaks import PRECISION
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load
from hangtag.serving.loadtest.record import stored
from hangtag.serving.loadtest.statistics.intervals import Interval, difference_of_shares


@dataclass(frozen=True)
class Answer:
    """Says which target to choose, by how much it is better, and how sure that is, each in one or two sentences."""

    which: str = stored()
    how_much: str = stored()
    how_sure: str = stored()


def answer(results: Results) -> Answer | None:
    """Recommend a target; return None if there is only one target.

    The targets are compared by their peaks if peaks were searched for, else by p99 under the common load (in the
    offline scenario by throughput), and by accuracy if it was measured. A difference counts only if the 95 % confidence
    intervals show it. All three sentences compare the same two targets. If one target is both the fastest and the most
    accurate, these are this target and the next best; otherwise, the fastest target and the most accurate target.
    """
    names = results.scenario.names
    if len(names) < 2:
        return None
    if results.scenario.find_peak:
        return _by_peak(results)
    front = Front(results, by_throughput=results.scenario.scenario == "offline")
    left_out = ", ".join(name for name in names if name not in front.names)
    if len(front.names) < 2:
        which = "No target can be recommended."
        return Answer(which, "No two targets have a VALID run under the same load.", f"Without: {left_out}.")
    if best := [name for name in front.fastest if name in front.most_accurate]:
        fast = best[0]
        slow = next(name for name in (*best, *front.names) if name != fast)
        which = f"Choose {fast}"
        better = "faster" + " or more accurate" * front.knows_accuracy
        reason = f": no other target is shown to be {better}. The next best is {slow}"
    else:
        fast = max(front.fastest, key=lambda name: results.accuracies[name].share)
        slow = front.most_accurate[0]
        faster = [name for name in front.names if front.slowdown(slow, name).estimate > 1]
        between = [name for name in faster if front.gain(name, fast).estimate > 0 and not front.is_beaten(name)]
        which = f"Choose {slow} for accuracy, {fast} for speed"
        reason = f", or {', '.join(between)} for a compromise" * bool(between)
    slowdown, gain = front.slowdown(slow, fast), front.gain(slow, fast)
    too_short = slowdown.known and not slowdown.shows_difference and gain.low <= 0 <= gain.high
    if not slowdown.known:
        reason = " by the figures of a single block"
    elif too_short and best:
        reason = f", but the test is too short to be sure that it is better than {slow}"
    times = f"{units.ratio(slowdown.estimate)} times as {'slow' if front.by_throughput else 'long'}"
    how_much = f"{fast} {front.speed(fast)} at {front.load}, {slow} {front.speed(slow)}, {times}."
    how_sure = "The confidence is unknown, because a single block has no interval."
    if slowdown.known:
        one, figure, other = (fast, "throughput", slow) if front.by_throughput else (slow, "p99", fast)
        ratio = f"{units.ratio(slowdown.low)} to {units.ratio(slowdown.high)} times"
        accuracy = f", and {slow}'s accuracy differs by {100 * gain.low:+.2f} to {100 * gain.high:+.2f} points"
        how_sure = f"With 95 % confidence, {one}'s {figure} is {ratio} {other}'s{accuracy * front.knows_accuracy}."
    if front.knows_accuracy:
        shares = [f"{results.accuracies[name].share:.2%}" for name in (fast, slow)]
        how_much += f" {fast} classifies {shares[0]} correctly, {slow} {shares[1]}."
    how_sure += " The interval includes a ratio of 1: lengthen the test with --min-duration." * too_short
    if any(run.doubt for run in front.runs.values()):
        how_sure += " The result is DOUBTFUL, because other programs took CPU time."
    if left_out:
        how_sure += f" Targets without a VALID run under this load were left out: {left_out}."
    return Answer(f"{which}{reason}.", how_much, how_sure)


def _by_peak(results: Results) -> Answer:
    peaks = sorted((peak.rate, peak.target) for peak in results.peaks if peak.rate is not None)
    if len(peaks) < 2:
        unknown = ", ".join(name for name in results.scenario.names if name not in {name for _, name in peaks})
        which = "No target can be recommended."
        return Answer(which, "The peak is known for fewer than two targets.", f"Without: {unknown}.")
    (second, other), (best, name) = peaks[-2:]
    which = f"Choose {name}. The next best is {other}."
    if best <= PRECISION * second:
        which = f"Choose {name} or {other}: their peaks are too close to decide."
    how_much = f"{name} meets the target latency up to {units.three_digits(best)} calls/s, {other} up to "
    how_much += f"{units.three_digits(second)} calls/s ({units.ratio(second / best)} times as many)."
    return Answer(which, how_much, f"Each peak is known to within {PRECISION - 1:.0%}, and was confirmed by two runs.")


def common_load(results: Results) -> Load | None:
    """Return the load by which the targets are compared: the load with the most VALID runs, or None if there is none.

    If several loads tie, return the lightest open loop among them, because an open loop is most similar to real use. If
    all of them are closed loops, return the lightest.
    """
    answered = Counter(run.load for run in results.runs if run.valid and run.total.latency)
    best = [load for load in results.loads if answered[load] == max(answered.values(), default=-1)]
    return min(best, key=lambda load: isinstance(load, ClosedLoop), default=None)


class Front:
    """Compares targets by p99 or throughput and, if known, by accuracy. Targets without a VALID run under the common
    load are left out. A target counts as better only if the 95 % interval of the difference does not contain zero.

    Attributes:
        load: The common load; None if there is no VALID run.
        runs: The runs under the common load, by target.
        names: The targets, from the fastest to the slowest.
        fastest: The fastest targets: no other target is significantly faster.
        most_accurate: The most accurate targets: no other target is significantly more accurate.
    """

    def __init__(self, results: Results, *, by_throughput: bool = False) -> None:
        self.load = common_load(results)
        runs = {run.target: run for run in results.under(self.load) if run.valid and run.total.latency}
        self.runs, self._accuracies = runs, results.accuracies
        self.by_throughput = by_throughput
        self.knows_accuracy = runs.keys() <= self._accuracies.keys()
        speeds = {name: -run.throughput if by_throughput else run.latency(99).total for name, run in runs.items()}
        self.names = sorted(runs, key=lambda name: speeds[name])
        self.fastest, self.most_accurate = [], []
        for name in self.names:
            slowdowns = [self.slowdown(name, other) for other in runs]
            # A single block has no interval, so its estimates are compared directly.
            if not any((ratio.low if ratio.known else ratio.estimate) > 1 for ratio in slowdowns):
                self.fastest.append(name)
            if not any(self.gain(name, other).high < 0 for other in runs):
                self.most_accurate.append(name)

    def slowdown(self, one: str, other: str) -> Interval:
        """Return how many times slower `one` is than `other`."""
        slow, fast = self.runs[one], self.runs[other]
        return compare(fast, slow).throughput if self.by_throughput else compare(slow, fast).p99

    def gain(self, one: str, other: str) -> Interval:
        """Return the accuracy of the first target minus the accuracy of the second target; 0 if they are unknown."""
        if one == other or not self.knows_accuracy:
            return Interval(0, 0, 0)
        return difference_of_shares(self._accuracies[one].right, self._accuracies[other].right)

    def is_beaten(self, name: str) -> bool:
        """Return whether another target is significantly faster and no less accurate, or significantly more accurate
        and no slower."""
        differences = [(self.slowdown(name, other), self.gain(name, other)) for other in self.names]
        return any(
            (ratio.low > 1 and gain.estimate <= 0) or (gain.high < 0 and ratio.estimate >= 1)
            for ratio, gain in differences
        )

    def speed(self, name: str) -> str:
        """Return a phrase with a target's throughput or p99."""
        run = self.runs[name]
        if self.by_throughput:
            return f"answers {units.three_digits(run.samples_per_second)} samples/s"
        return f"has a p99 of {units.duration(run.latency(99).total)}"
