"""Searches for each target's peak, the highest rate that meets the target latency, as in LoadGen's server scenario."""

import math
from collections.abc import Generator
from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.measuring.interleaving import Session
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import LOWEST_RATE, MAX_RATE, Block, OpenLoop, random_generator
from hangtag.serving.loadtest.plan.scenario import SHARE_OF_PEAK, Scenario
from hangtag.serving.loadtest.record import shown, stored, unstored

# The search ends when the lowest rate that missed the target latency is at most this many times the peak.
PRECISION = 1.05
FIRST_RATE = 100.0  # The first rate in queries per second if no closed loop has run.


def peak_search(first: float, lowest: float = LOWEST_RATE) -> Generator[float, bool, float | None]:
    """Search for the peak by bisection on a logarithmic scale.

    The search doubles or halves the rate until one rate meets the target latency and another rate misses it, and then
    bisects between these two rates. A rate near the peak may meet the target latency once by chance. A peak is
    therefore a rate that met the target latency in two runs.

    Yields the next rate in queries per second, receives whether the run at that rate met the target latency, and
    returns the peak; None if even the rate `lowest` missed the target latency.
    """
    lowest = _three_digits(min(lowest, MAX_RATE))
    low: float | None = None  # The highest rate that met the target latency.
    high: float | None = None  # The lowest rate that missed the target latency.
    step = 2.0  # While `low` is None, the next rate is the previous rate divided by this.
    rate = _three_digits(min(max(first, lowest), MAX_RATE))
    while True:
        is_confirmation, kept = rate == low, (yield rate)
        if is_confirmation and kept:
            return rate
        if kept:
            low = rate
        else:
            high = rate
        if is_confirmation:  # The peak is just below this rate.
            low, step = None, PRECISION
        if low is None:
            assert high is not None
            if high <= lowest:
                return None
            lower = _three_digits(high / step)
            rate = max(lower if lower < high else high / 2, lowest)
        elif high is None:
            rate = min(_three_digits(2 * low), float(MAX_RATE))
        else:
            middle = _three_digits(math.sqrt(low * high))
            rate = middle if high / low > PRECISION and low < middle < high else low


def _three_digits(rate: float) -> float:
    return float(f"{rate:.3g}")


@dataclass(frozen=True)
class Peak:
    """The highest rate at which a target meets the target latency, and every run of the search."""

    target: str = stored()
    rate: float | None = stored("In calls per second; null if no rate met the latency, or the search did not end.")
    steps: tuple[Run, ...] = stored("The runs in order. A run that met the target latency is also VALID.")
    ended: bool = unstored(default=True)

    @shown()
    def limited_by_generator(self) -> bool:
        """Whether the generator was too slow at the lowest rate above the peak; the server's peak may then be higher.

        The result is False if the server itself missed the target latency at that rate.
        """
        failed = {run.load.rate or 0: run for run in reversed(self.steps) if not (run.valid and run.keeps_target)}
        above = [rate for rate in failed if rate > (self.rate or 0)]
        return bool(above) and failed[min(above)].generator_late

    @shown()
    def sentence(self) -> str:
        """The peak in a sentence, for example "cnn keeps p99 within 10.0 ms up to 1,450 calls/s."."""
        last = self.steps[-1]
        lowest = last.load.rate or LOWEST_RATE
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
        return f"{self.target} does not keep {bound} at any request rate{limit * (lowest > LOWEST_RATE)}."


def find(scenario: Scenario, session: Session) -> tuple[Peak, ...]:
    """Search for the peaks of all targets, with interleaved runs. After a stop, return the peaks so far."""
    first = {name: SHARE_OF_PEAK * throughput for name, throughput in session.peaks().items()}
    first |= dict.fromkeys(scenario.names, scenario.rate[0]) if scenario.rate else {}
    searches = {name: peak_search(first.get(name, FIRST_RATE), scenario.lowest_rate) for name in scenario.names}
    rates = {name: next(search) for name, search in searches.items()}  # The next rate of each search that still runs.
    peaks: dict[str, float | None] = {}
    steps: dict[str, list[Run]] = {name: [] for name in scenario.names}
    random = random_generator(scenario.seed, "peak order")
    while rates and not session.stop.is_set():
        running = list(rates)
        for index in random.permutation(len(running)):
            name, number = running[index], sum(map(len, steps.values()))
            load = OpenLoop(rates[name], scenario.arrivals)
            block = Block(name, load, scenario.limits, scenario.warm_up, scenario.seed, round=number + 1)
            result = session.run_block(block)
            if result.queries:
                steps[name].append(session.as_run(name, load, [result], planned_blocks=1))
            if session.stop.is_set() or not result.queries:
                break
            run = steps[name][-1]
            try:
                rates[name] = searches[name].send(run.valid and bool(run.keeps_target))
            except StopIteration as ended:
                peaks[name] = ended.value
                del rates[name]
    return tuple(
        Peak(name, peaks.get(name), tuple(steps[name]), ended=name in peaks) for name in scenario.names if steps[name]
    )
