"""Builds results by hand, so that reports and comparisons are tested against known numbers."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from hangtag.serving import address as server_address
from hangtag.serving.loadtest.generator.block_result import OK, BlockResult, TimeSlice
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.caching import CacheCheck
from hangtag.serving.loadtest.measuring.calibration import Ceiling
from hangtag.serving.loadtest.measuring.peaks import Peak
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import Interval
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from hangtag.serving.loadtest.sut.description import Description
from tests.serving.loadtest.fake_server import metadata


def targets(*names: str, address: str = server_address.DEFAULT) -> tuple[Target, ...]:
    """Targets with the names of their models."""
    return tuple(Target(name, name, address) for name in names)


def histogram(*seconds: float) -> DurationHistogram:
    """A histogram of these durations."""
    filled = DurationHistogram()
    filled.record(np.array(seconds))
    return filled


def block(
    target: str,
    load: Load,
    seconds: tuple[float, ...] = (0.001,),
    *,
    failed: int = 0,
    delayed: int = 0,
    finished: bool = True,
    window: float = 1.0,
    start: float = 0.0,
    **more: Any,
) -> BlockResult:
    """A block whose answered queries took these seconds; all left on time."""
    statuses = Counter({OK: len(seconds)})
    if failed:
        statuses["UNAVAILABLE"] = failed
    latencies = histogram(*seconds) if seconds else DurationHistogram()
    return BlockResult(
        target=target,
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
        timeline=(TimeSlice(start, 1.0, latencies, failed),),
        generator_cpu=0.1,
        **more,
    )


def description(target: Target, **parameters: str) -> Description:
    """A target whose server describes everything."""
    all_parameters = {"execution_provider": "CPUExecutionProvider", "onnxruntime_version": "1.99.0"} | parameters
    return Description(target, "fake", "0.0", metadata(target.model), 64, all_parameters, instances=2, statistics=True)


def results(*runs: Run, interrupted: bool = False, batch_size: int = 1, **more: Any) -> Results:
    """Results of these runs."""
    measured = targets(*(dict.fromkeys(run.target for run in runs) or ("fast",)))
    return Results(
        scenario=more.pop("scenario", Scenario(measured, batch_size=batch_size)),
        descriptions={target.name: description(target, file_bytes="1000000") for target in measured},
        sources={target.name: "random values" for target in measured},
        runs=runs,
        interrupted=interrupted,
        started="2026-01-02T03:04:05+00:00",
        duration=12.0,
        command="hangtag loadtest " + " ".join(target.name for target in measured),
        environment={"CPU": "a processor"},
        **more,
    )


def two_models(more: dict[str, Any] | None = None, **slow: int) -> Results:
    """`fast` and `slow`, which takes four times as long, in a closed and an open loop of five blocks each."""
    runs = []
    loads: tuple[Load, ...] = (ClosedLoop(8), OpenLoop(500.0))
    for place, load in enumerate(loads):
        for name, factor in (("fast", 1.0), ("slow", 4.0)):
            times = tuple(np.linspace(0.001, 0.002, int(1000 / factor)) * factor)
            extra: dict[str, Any] = dict(slow) if name == "slow" else {}
            timings = ServerTimings(1000, 500, 0.1 * factor, 0.01, 0.5 * factor, 0.01)
            blocks = tuple(block(name, load, times, start=10 * place + n, server=timings, **extra) for n in range(5))
            runs.append(Run(blocks, batch_size=1))
    return results(*runs, **(more or {}))


def full_results(**slow: int) -> Results:
    """The two models with every extra measurement: accuracy, a peak, caching, the ceiling."""
    steps = [
        Run((block("fast", OpenLoop(rate), (latency,) * 2000, window=2000 / rate),), 1, target_latency=0.01)
        for rate, latency in ((2000.0, 0.02), (1450.0, 0.005), (1450.0, 0.005))
    ]
    more = {
        "accuracies": {"fast": Accuracy(900, 1000), "slow": Accuracy(950, 1000)},
        "peaks": (Peak("fast", 1450.0, tuple(steps)),),
        "caching": (
            CacheCheck("fast", Interval(1.01, 0.98, 1.04)),
            CacheCheck("slow", Interval(3.0, 2.5, 3.5)),
        ),
        "ceilings": (Ceiling("gRPC", ClosedLoop(8), 20_000.0, 0.0004, 0.001, 0.0),),
    }
    measured = two_models(more, **slow)
    return replace(measured, runs=(*measured.runs, steps[-1]))
