"""Searches each target's peak: the highest rate that keeps the target latency, as in LoadGen's server scenario."""

from dataclasses import dataclass

from hangtag.serving.loadtest import units
from hangtag.serving.loadtest.generator.messages import Block
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.measuring.session import Session
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.plan.peak_search import LOWEST_RATE, PeakSearch
from hangtag.serving.loadtest.plan.scenario import SHARE_OF_PEAK, Scenario
from hangtag.serving.loadtest.plan.schedule import random_generator

FIRST_RATE = 100.0  # Queries per second, where no closed loop has run.


@dataclass(frozen=True)
class Peak:
    """The result of a search. `steps` are all of its runs in order; a step that kept the bound is VALID too."""

    target: str
    rate: float | None  # Queries per second; None when no rate kept the bound, or the search did not end.
    steps: tuple[Run, ...]
    ended: bool = True

    @property
    def limited_by_generator(self) -> bool:
        """Whether the generator failed at the lowest rate above the peak, so that the server's peak may be higher.

        Where the generator failed only at higher rates, and the server missed the bound below them, the peak is the
        server's.
        """
        failed = [run for run in self.steps if not run.keeps_bound and _rate(run) > (self.rate or 0)]
        edge = min(failed, key=_rate, default=None)
        return edge is not None and edge.generator_late

    @property
    def sentence(self) -> str:
        """For example: cnn keeps p99 within 10.0 ms up to 1,450 calls/s."""
        last = self.steps[-1]
        assert last.target_latency is not None
        bound = f"p{last.percentile:g} within {units.duration(last.target_latency)}"
        if not self.ended:
            return f"{self.target}: the search was stopped before it knew how far {bound} holds."
        if self.rate is None and last.keeps_target is None:
            return f"{self.target}: no run was long enough to tell whether {bound} holds."
        lowest = _rate(last)
        if self.rate is None and self.limited_by_generator:
            late = f"the generator could not keep up even at {units.three_digits(lowest)} calls/s"
            return f"{self.target}: whether {bound} holds is not known: {late}."
        if self.rate is None:
            limit = f" from {units.three_digits(lowest)} calls/s on (lower ones take a longer --max-duration)"
            return f"{self.target} keeps {bound} at no rate{limit * (lowest > LOWEST_RATE)}."
        limited = " (the generator could not send more: the server may keep it further)" * self.limited_by_generator
        return f"{self.target} keeps {bound} up to {units.three_digits(self.rate)} calls/s{limited}."

    @property
    def confirmation(self) -> Run | None:
        """The run that confirmed the peak."""
        return self.steps[-1] if self.rate is not None else None


def _rate(run: Run) -> float:
    assert isinstance(run.load, OpenLoop)
    return run.load.rate


def find(scenario: Scenario, session: Session) -> tuple[Peak, ...]:
    """Search the peaks of all targets, with their runs interleaved. A stopped session returns what it has so far.

    Raises:
        GeneratorError: When a generator process failed.
    """
    throughputs = session.peaks()
    searches = {
        name: PeakSearch(
            scenario.rate[0] if scenario.rate else SHARE_OF_PEAK * throughputs.get(name, 2 * FIRST_RATE),
            scenario.lowest_rate,
        )
        for name in scenario.names
    }
    steps: dict[str, list[Run]] = {name: [] for name in scenario.names}
    random = random_generator(scenario.seed, "peak order")
    number = 0
    while not session.stopped and (running := [name for name, search in searches.items() if search.rate is not None]):
        for index in random.permutation(len(running)):
            name = running[index]
            rate = searches[name].rate
            if session.stopped or rate is None:
                break
            load = OpenLoop(rate, scenario.arrivals)
            number += 1
            block = Block(name, load, scenario.limits, scenario.warm_up, scenario.seed, round=number)
            result = session.run_block(block, later=(scenario.min_duration + scenario.warm_up) * (len(running) - 1))
            if not result.queries:
                break
            run = session.as_run([result], planned_blocks=1)
            steps[name].append(run)
            if not session.stopped:
                searches[name].record(run.keeps_bound)
    return tuple(
        Peak(name, searches[name].peak, tuple(steps[name]), ended=searches[name].rate is None)
        for name in scenario.names
        if steps[name]
    )
