"""Searches for each target's peak, the highest rate that meets the target latency, as in LoadGen's server scenario."""

import math
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.process_messages import Block
from hangtag.serving.loadtest.measuring.interleaving import Session
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import LOWEST_RATE, MAX_RATE, OpenLoop, random_generator
from hangtag.serving.loadtest.plan.scenario import SHARE_OF_PEAK, Scenario
from hangtag.serving.loadtest.record import shown, stored, unstored

# The search ends when the lowest rate that missed the target latency is at most this many times the peak.
PRECISION = 1.05


class PeakSearch:
    """A bisection on a logarithmic scale, with a second run to confirm the peak.

    The search doubles or halves the rate until one rate meets the target latency and another rate misses it, and then
    bisects between these two rates. A rate near the peak may meet the target latency once by chance. A peak is
    therefore a rate that met the target latency in two runs.
    """

    def __init__(self, first: float, lowest: float = LOWEST_RATE) -> None:
        """Start at the rate `first` in queries per second, and try no rate below `lowest`."""
        self._lowest = _three_digits(min(lowest, MAX_RATE))
        self._low: float | None = None  # The highest rate that met the target latency.
        self._high: float | None = None  # The lowest rate that missed the target latency.
        self._confirming = False
        self._step = 2.0  # The factor between rates until one rate has met the target latency and another missed it.
        self.rate: float | None = _three_digits(min(max(first, self._lowest), MAX_RATE))
        self.peak: float | None = None

    def record(self, kept: bool) -> None:
        """Record whether the run at `rate` met the target latency, and choose the next `rate`.

        When the search ends, `rate` becomes None. If even the lowest rate missed the target latency, `peak` stays None.
        """
        assert self.rate is not None
        if self._confirming and kept:
            self.peak, self.rate = self.rate, None
            return
        if kept:
            self._low = self.rate
        else:
            self._high = self.rate
        if self._confirming:  # The peak is just below this rate.
            self._low, self._confirming, self._step = None, False, PRECISION
        self.rate = self._next()

    def _next(self) -> float | None:
        if self._high is None:
            assert self._low is not None
            self._confirming = self._low >= MAX_RATE
            return min(_three_digits(2 * self._low), float(MAX_RATE))
        if self._low is None:
            if self._high <= self._lowest:
                return None
            lower = _three_digits(self._high / self._step)
            return max(lower if lower < self._high else self._high / 2, self._lowest)
        middle = _three_digits(math.sqrt(self._low * self._high))
        self._confirming = self._high / self._low <= PRECISION or not self._low < middle < self._high
        return self._low if self._confirming else middle


def _three_digits(rate: float) -> float:
    return float(f"{rate:.3g}")


FIRST_RATE = 100.0  # The first rate in queries per second if no closed loop has run.


@dataclass(frozen=True)
class Peak:
    """The highest rate at which a target meets the target latency, and every run of the search."""

    target: str = stored()
    rate: float | None = stored("In calls per second; null if no rate met the latency, or the search did not end.")
    steps: tuple[Run, ...] = stored("The runs in order. A run that met the target latency is also VALID.")
    ended: bool = unstored(default=True)

    @shown()
    def limited_by_generator(self) -> bool:
        """Whether the generator failed at the lowest rate above the peak, so that the server's peak may be higher.

        The result is False if the server itself missed the target latency at that rate.
        """
        failed = [run for run in self.steps if not run.keeps_bound and _rate(run) > (self.rate or 0)]
        edge = min(failed, key=_rate, default=None)
        return edge is not None and edge.generator_late

    @shown()
    def sentence(self) -> str:
        """The peak in a sentence, for example "cnn keeps p99 within 10.0 ms up to 1,450 calls/s."."""
        last, lowest = self.steps[-1], _rate(self.steps[-1])
        assert last.target_latency is not None
        bound = f"p{last.percentile:g} within {units.duration(last.target_latency)}"
        if not self.ended:
            return f"{self.target}: the search was stopped before it knew the highest rate with {bound}."
        if self.rate is not None:
            limited = " (the server's peak may be higher, but the generator could not send more queries)"
            rate = f"{units.three_digits(self.rate)} calls/s{limited * self.limited_by_generator}"
            return f"{self.target} keeps {bound} up to {rate}."
        if last.keeps_target is None:
            return f"{self.target}: no run was long enough to decide about {bound}."
        if self.limited_by_generator:
            late = f"the generator could not keep up even at {units.three_digits(lowest)} calls/s"
            return f"{self.target}: the highest rate with {bound} is unknown, because {late}."
        limit = f" of {units.three_digits(lowest)} calls/s or more (lower rates need a longer --max-duration)"
        return f"{self.target} does not keep {bound} at any rate{limit * (lowest > LOWEST_RATE)}."

    @property
    def confirmation(self) -> Run | None:
        """The run that confirmed the peak; None without a peak."""
        return self.steps[-1] if self.rate is not None else None


def _rate(run: Run) -> float:
    assert isinstance(run.load, OpenLoop)
    return run.load.rate


def find(scenario: Scenario, session: Session) -> tuple[Peak, ...]:
    """Search for the peaks of all targets, with interleaved runs. If the session is stopped, return the peaks so far.

    Raises LoadTestError if a generator process failed.
    """
    throughputs = session.peaks()
    firsts = {name: SHARE_OF_PEAK * throughputs.get(name, 2 * FIRST_RATE) for name in scenario.names}
    if scenario.rate:
        firsts = dict.fromkeys(scenario.names, scenario.rate[0])
    searches = {name: PeakSearch(first, scenario.lowest_rate) for name, first in firsts.items()}
    steps: dict[str, list[Run]] = {name: [] for name in scenario.names}
    random = random_generator(scenario.seed, "peak order")
    while not session.stop.is_set() and (running := [name for name in searches if searches[name].rate is not None]):
        for index in random.permutation(len(running)):
            name, number = running[index], sum(map(len, steps.values()))
            rate = searches[name].rate
            if session.stop.is_set() or rate is None:
                break
            load = OpenLoop(rate, scenario.arrivals)
            block = Block(name, load, scenario.limits, scenario.warm_up, scenario.seed, round=number + 1)
            result = session.run_block(block)
            if not result.queries:
                break
            run = session.as_run(name, load, [result], planned_blocks=1)
            steps[name].append(run)
            if not session.stop.is_set():
                searches[name].record(run.keeps_bound)
    return tuple(
        Peak(name, searches[name].peak, tuple(steps[name]), ended=searches[name].rate is None)
        for name in scenario.names
        if steps[name]
    )
