"""Runs made by hand, with known numbers: as objects, and as saved results that an earlier load test wrote."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

MACHINE = {"CPU": "a processor", "CPUs usable": "8 of 8", "system": "Linux 6"}
Seconds = Sequence[float]


def histogram(*seconds: float) -> DurationHistogram:
    """A histogram of these durations."""
    filled = DurationHistogram()
    filled.record(np.array(seconds))
    return filled


def block(target: str, load: Load, *seconds: float, failed: int = 0, **more: Any) -> BlockResult:
    """A block of one second whose answered queries took these seconds; all left on time."""
    return BlockResult(
        target=target,
        load=load,
        window=1.0,
        answered_in_window=len(seconds),
        warm_up_queries=0,
        statuses=Counter({"OK": len(seconds), "UNAVAILABLE": failed}),
        latency=histogram(*seconds),
        service=histogram(*seconds),
        **more,
    )


def run_of(*blocks: BlockResult, **more: Any) -> Run:
    """A run of single samples."""
    return Run(blocks, batch_size=1, **more)


def _durations(seconds: Seconds) -> dict[str, str]:
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    for each in seconds:
        histogram.record_value(round(each * 1e6))
    return {"histogram": histogram.encode().decode()}


def saved_block(seconds: Seconds, *, failed: int = 0, **more: Any) -> dict[str, Any]:
    """A block of one second whose answered queries took these seconds, with the fields of the format's first files."""
    return {
        "duration": 1.0,
        "throughput": float(len(seconds)),
        "warm_up_queries": 0,
        "statuses": {"OK": len(seconds)} | ({"UNAVAILABLE": failed} if failed else {}),
        "delayed_queries": 0,
        **{name: _durations(seconds) for name in ("latency", "service_time")},
        "lateness": _durations([0.0001] * (len(seconds) + failed)),
        **more,
    }


def steady(seconds: float, count: int = 100, **more: Any) -> list[dict[str, Any]]:
    """Two blocks whose queries all took the same."""
    return [saved_block([seconds] * count, **more) for _ in range(2)]


def saved_run(target: str, load: int | float, *blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run under a closed loop, or under an open one where the load is a float."""
    closed = {"kind": "closed loop", "concurrency": load, "rate": None, "arrivals": None}
    opened = {"kind": "open loop", "concurrency": None, "rate": load, "arrivals": "poisson"}
    return {
        "model": target,
        "load": opened if isinstance(load, float) else closed,
        "error_messages": {},
        "blocks": list(blocks),
        "planned_blocks": len(blocks),
        **more,
    }


def save(file: Path, *runs: dict[str, Any], environment: dict[str, str] | None = None, **more: Any) -> Path:
    """Write a file of results; ``more`` are fields of the whole document."""
    document = {
        "schema": "hangtag.loadtest/1",
        "scenario": {"batch_size": 1, "blocks": 2, "targets": [], "channels": 1},
        "environment": MACHINE if environment is None else environment,
        "started": "2026-01-02T03:04:05+00:00",
        "runs": list(runs),
        **more,
    }
    file.write_text(json.dumps(document))
    return file
