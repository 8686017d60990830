"""Results made by hand, so that reports and comparisons are tested against numbers known beforehand."""

from collections import Counter

import numpy as np

from serving.loadtest.histogram import Histogram
from serving.loadtest.recorder import OK, BlockResult
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import ClosedLoop, Load, OpenLoop, Scenario
from serving.loadtest.target import Target


def histogram(*seconds: float) -> Histogram:
    """A histogram of these durations."""
    filled = Histogram()
    filled.record(np.array(seconds))
    return filled


def block(
    model: str,
    load: Load,
    seconds: tuple[float, ...] = (0.001,),
    *,
    failed: int = 0,
    delayed: int = 0,
    finished: bool = True,
    window: float = 1.0,
) -> BlockResult:
    """A block whose answered queries took so long; every one left on time."""
    statuses = Counter({OK: len(seconds)})
    if failed:
        statuses["UNAVAILABLE"] = failed
    latencies = histogram(*seconds) if seconds else Histogram()
    return BlockResult(
        model=model,
        load=load,
        window=window,
        answered_in_window=len(seconds),
        warm_up_queries=2,
        statuses=statuses,
        details={"UNAVAILABLE": "went away <soon>"} if failed else {},
        latency=latencies,
        service=latencies,
        lateness=histogram(*(0.0001 for _ in range(statuses.total()))),
        delayed=delayed,
        finished=finished,
    )


def results(*runs: Run, interrupted: bool = False, batch_size: int = 1) -> Results:
    """Results of these runs."""
    models = tuple(dict.fromkeys(run.model for run in runs)) or ("fast",)
    return Results(
        scenario=Scenario(models, batch_size=batch_size),
        target=Target("127.0.0.1:8001", "fake", "0.0", {}),
        sources=dict.fromkeys(models, "random values"),
        runs=runs,
        interrupted=interrupted,
        started="2026-01-02T03:04:05+00:00",
        duration=12.0,
        command="hangtag loadtest " + " ".join(models),
        environment={"CPU": "a processor"},
    )


def two_models(**slow: int) -> Results:
    """`fast` and `slow`, which takes four times as long, in a closed and an open loop of five blocks each."""
    runs = []
    for load in (ClosedLoop(8), OpenLoop(500.0)):
        for model, factor in (("fast", 1.0), ("slow", 4.0)):
            times = tuple(np.linspace(0.001, 0.002, int(200 / factor)) * factor)
            extra = slow if model == "slow" else {}
            runs.append(Run(tuple(block(model, load, times, **extra) for _ in range(5)), batch_size=1))  # type: ignore[arg-type]
    return results(*runs)
