"""Builds runs by hand, for what is computed from them."""

from collections import Counter
from typing import Any

import numpy as np

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import Load
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram


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
