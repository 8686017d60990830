"""Are answers computed, or remembered? MLPerf's TEST04: one sample over and over against different ones."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from serving.loadtest.generator.fleet import Fleet
from serving.loadtest.generator.orders import Feed
from serving.loadtest.measuring.session import Progress, Session
from serving.loadtest.plan.loads import ClosedLoop
from serving.loadtest.plan.scenario import Scenario
from serving.loadtest.plan.targets import Target
from serving.loadtest.statistics.intervals import Interval, ratio_of_rates

CONCURRENCY = 8
BLOCKS = 6
# TEST04 allows the same sample to be up to a tenth faster: a processor's caches are no answers remembered.
ALLOWED = 1.1
ONE_SAMPLE = " (one sample)"


@dataclass(frozen=True)
class CacheCheck:
    """How many times the throughput is with one sample over and over that it is with different ones."""

    target: str
    speedup: Interval

    @property
    def problem(self) -> str | None:
        """Why runs of this target are INVALID."""
        if not self.speedup.known or self.speedup.low <= ALLOWED:
            return None
        return (
            f"answers seem to be cached: one sample over and over is {self.speedup.estimate:.2f} times as fast as "
            f"different ones (95 %: {self.speedup.low:.2f} to {self.speedup.high:.2f})"
        )


def with_one_sample(feeds: dict[str, Feed]) -> dict[str, Feed]:
    """The feeds, and for each one more that sends its first request over and over."""
    return feeds | {name + ONE_SAMPLE: replace(feed, requests=feed.requests[:1]) for name, feed in feeds.items()}


def check(
    scenario: Scenario, target: Target, fleet: Fleet, stop: threading.Event, on_progress: Callable[[Progress], None]
) -> CacheCheck | None:
    """Compare both in interleaved blocks. The fleet holds the feeds of `with_one_sample`. None once `stop` is set.

    Raises GeneratorError.
    """
    same = replace(target, name=target.name + ONE_SAMPLE)
    small = Scenario(
        targets=(target, same),
        concurrency=(CONCURRENCY,),
        min_duration=min(scenario.min_duration, 3.0),
        min_query_count=min(scenario.min_query_count, 500),
        max_duration=scenario.max_duration,
        max_query_count=scenario.max_query_count,
        warm_up=scenario.warm_up,
        blocks=BLOCKS,
        seed=scenario.seed,
    )

    def report(at: Progress) -> None:
        on_progress(replace(at, phase="checking that answers are computed"))

    session = Session(small, fleet, stop, report, lambda _: None)
    runs = {run.target: run for run in session.run() if isinstance(run.load, ClosedLoop)}
    if stop.is_set() or len(runs) < 2:
        return None
    again, different = (runs[name].block_throughputs() for name in (same.name, target.name))
    return CacheCheck(target.name, ratio_of_rates(again, different))
