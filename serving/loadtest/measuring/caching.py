"""Are answers computed, or remembered? MLPerf's TEST04: one sample over and over against ones never sent before.

Both are random values, whatever the load itself sends: of images there are only so many, and a server that remembers
answers has all of them after one round.
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
# How many requests a block has at most, so that none is sent twice.
BLOCK_SIZE = 2_000
FEWEST = BLOCKS * 2 * CONCURRENCY
# TEST04 allows the same sample to be up to a tenth faster: a processor's caches are no answers remembered.
ALLOWED = 1.1
ONE_SAMPLE, NEW_SAMPLES = " (one sample)", " (new samples)"


@dataclass(frozen=True)
class CacheCheck:
    """How many times the throughput is with one sample over and over that it is with ones never sent before."""

    target: str
    speedup: Interval

    @property
    def problem(self) -> str | None:
        """Why runs of this target are INVALID."""
        if not self.speedup.known:
            return "whether its answers are computed is not known: random values for its inputs went unanswered"
        if self.speedup.low <= ALLOWED:
            return None
        return f"answers seem to be cached: {self._measured}"

    @property
    def sentence(self) -> str:
        """What was found where there is no problem."""
        return f"{self.target} shows no sign of cached answers: {self._measured}."

    @property
    def _measured(self) -> str:
        return (
            f"one sample over and over is {self.speedup.estimate:.2f} times as fast as new ones "
            f"(95 %: {self.speedup.low:.2f} to {self.speedup.high:.2f})"
        )


def feeds(target: Target, metadata: pb.ModelMetadataResponse, batch_size: int) -> dict[str, RequestPool]:
    """What `check` sends: one request, and as many different ones, by the names that it has for the target.

    Raises SampleError when too few values can be made up for the model.
    """
    # Not the test's own seed: the server would remember the last test's.
    made = load(target, metadata, batch_size, secrets.randbits(62), size=BLOCKS * BLOCK_SIZE).feed
    one, *new = dict.fromkeys(made.requests)
    if len(new) < FEWEST:
        raise SampleError(
            f"whether {target.name} caches answers cannot be checked: only {len(new)} requests for it can be made up "
            f"that differ and fit into memory, and that takes {FEWEST}"
        )
    return {
        target.name + ONE_SAMPLE: replace(made, requests=(one,)),
        target.name + NEW_SAMPLES: replace(made, requests=tuple(new)),
    }


def check(
    scenario: Scenario,
    target: Target,
    sent: Mapping[str, RequestPool],
    fleet: GeneratorProcesses,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> CacheCheck | None:
    """Compare both in interleaved blocks. `sent` are `feeds`, which the fleet holds. None once `stop` is set.

    Raises GeneratorError.
    """
    one, new = (replace(target, name=target.name + which) for which in (ONE_SAMPLE, NEW_SAMPLES))
    block_size = len(sent[new.name].requests) // BLOCKS
    # When a block has sent so many, as many as are in flight may still follow.
    most = min(BLOCKS * (block_size - CONCURRENCY), scenario.max_query_count)
    small = Scenario(
        targets=(new, one),
        concurrency=(CONCURRENCY,),
        min_duration=min(scenario.min_duration, 3.0),
        min_query_count=min(scenario.min_query_count, 500, most),
        max_duration=scenario.max_duration,
        max_query_count=most,
        warm_up=0.0,
        blocks=BLOCKS,
        seed=scenario.seed,
    )

    def report(at: Progress) -> None:
        on_progress(replace(at, phase="checking that answers are computed"))

    session = Session(small, fleet, stop, report, lambda _: None)
    # Each block goes on with requests that those before it have not sent.
    blocks = interleaved(small, small.closed_loops)
    session.run_all([replace(block, first=block.round * block_size) for block in blocks])
    runs = {run.target: run for run in session.runs() if isinstance(run.load, ClosedLoop)}
    if stop.is_set() or len(runs) < 2:
        return None
    again, different = (runs[name].block_throughputs() for name in (one.name, new.name))
    return CacheCheck(target.name, ratio_of_rates(again, different))
