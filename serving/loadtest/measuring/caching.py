"""Checks whether a server caches answers, as MLPerf's TEST04: one sample repeated against samples never sent before.

Both are random values, whatever the load itself sends: images are limited in number, so a server that caches answers
would have cached all of them after one round.
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.generator.messages import RequestPool
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring.session import Progress, Session, interleaved
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples import load
from hangtag.serving.loadtest.statistics.intervals import Interval, ratio_of_rates

CONCURRENCY = 8
BLOCKS = 6
# Requests in a block at most, so that none is sent twice.
BLOCK_SIZE = 2_000
MIN_REQUESTS = BLOCKS * 2 * CONCURRENCY
# TEST04 allows the repeated sample to be a tenth faster, because of the processor's caches.
ALLOWED_SPEEDUP = 1.1
ONE_SAMPLE, NEW_SAMPLES = " (one sample)", " (new samples)"  # Suffixes of the target's name.


@dataclass(frozen=True)
class CacheCheck:
    """The throughput with one repeated sample, as a multiple of the throughput with new samples."""

    target: str
    speedup: Interval

    @property
    def problem(self) -> str | None:
        """Why runs of this target are INVALID."""
        if not self.speedup.known:
            return "whether its answers are computed is not known: random values for its inputs went unanswered"
        if self.speedup.low <= ALLOWED_SPEEDUP:
            return None
        return f"answers seem to be cached: {self._measured}"

    @property
    def sentence(self) -> str:
        """The finding where there is no problem."""
        return f"{self.target} shows no sign of cached answers: {self._measured}."

    @property
    def _measured(self) -> str:
        return (
            f"one sample over and over is {self.speedup.estimate:.2f} times as fast as new ones "
            f"(95 %: {self.speedup.low:.2f} to {self.speedup.high:.2f})"
        )


def request_pools(
    target: Target, metadata: pb.ModelMetadataResponse, batch_size: int, deadline: float
) -> dict[str, RequestPool]:
    """What `check` sends to a target: one repeated request, and as many different requests as it needs.

    Raises:
        SampleError: When the model's inputs allow too few different values.
    """
    # Not the test's seed: the server would have cached the previous test's samples.
    pool = load(target, metadata, batch_size, secrets.randbits(62), size=BLOCKS * BLOCK_SIZE).request_pool(deadline)
    first, *others = dict.fromkeys(pool.requests)
    if len(others) < MIN_REQUESTS:
        raise SampleError(
            f"whether {target.name} caches answers cannot be checked: only {len(others)} different requests that fit "
            f"into memory can be generated for it, and the check needs {MIN_REQUESTS}"
        )
    return {
        target.name + ONE_SAMPLE: replace(pool, requests=(first,)),
        target.name + NEW_SAMPLES: replace(pool, requests=tuple(others)),
    }


def check(
    scenario: Scenario,
    target: Target,
    pools: Mapping[str, RequestPool],
    generators: GeneratorProcesses,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> CacheCheck | None:
    """Compare both `request_pools` of a target, which `generators` hold too, in interleaved blocks.

    Returns None once `stop` is set.

    Raises:
        GeneratorError: When a generator process failed.
    """
    one_sample, new_samples = (replace(target, name=target.name + suffix) for suffix in (ONE_SAMPLE, NEW_SAMPLES))
    block_size = len(pools[new_samples.name].requests) // BLOCKS
    # The queries in flight when a block reaches its maximum come on top of it.
    max_query_count = min(BLOCKS * (block_size - CONCURRENCY), scenario.max_query_count)
    check_scenario = Scenario(
        targets=(new_samples, one_sample),
        concurrency=(CONCURRENCY,),
        min_duration=min(scenario.min_duration, 3.0),
        min_query_count=min(scenario.min_query_count, 500, max_query_count),
        max_duration=scenario.max_duration,
        max_query_count=max_query_count,
        warm_up=0.0,
        blocks=BLOCKS,
        seed=scenario.seed,
    )

    def report(progress: Progress) -> None:
        on_progress(replace(progress, phase="checking that answers are computed"))

    session = Session(check_scenario, generators, stop, report, lambda _: None)
    # Each block continues with requests that no earlier block has sent.
    blocks = interleaved(check_scenario, check_scenario.closed_loops)
    session.run_all([replace(block, first=block.round * block_size) for block in blocks])
    runs = {run.target: run for run in session.runs() if isinstance(run.load, ClosedLoop)}
    if stop.is_set() or len(runs) < 2:
        return None
    repeated, new = (runs[name].block_throughputs() for name in (one_sample.name, new_samples.name))
    return CacheCheck(target.name, ratio_of_rates(repeated, new))
