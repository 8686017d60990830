"""A generator of one process, in the test's own, and the blocks that it runs."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.generator import Generator
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.shared_counts import SharedCounts
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Load
from tests.serving.loadtest.fake_server import FakeServer


def make_generator(
    server: FakeServer, *, public: bool = False, deadline: float = 5.0, channels: int = 1, **more: Any
) -> Generator:
    """A generator of one process, in this one."""
    pool = RequestPool(more.pop("address", server.address), INFER, more.pop("requests", (b"",)))
    settings = CallSettings(channels, deadline, public_api=public)
    counts = SharedCounts(multiprocessing.get_context("spawn"), more.get("processes", 1))
    return Generator({"fast": pool}, settings, counts, **more)


def limits(duration: float = 0.0, count: int = 1, longest: float = 10.0, most: int = 100_000) -> Limits:
    return Limits(duration, count, longest, most)


def run(generator: Generator, load: Load, within: Limits, warm_up: float = 0.0) -> BlockResult:
    return generator_run(generator, Block("fast", load, within, warm_up, seed=0, round=0))


def generator_run(
    generator: Generator, block: Block, keep_going: Callable[[Snapshot], bool] = lambda snapshot: True
) -> BlockResult:
    """Run a block as GeneratorProcesses does: reset the counts, and combine the parts (here one)."""
    generator._counts.reset()
    return BlockResult.from_processes([generator.run(block, keep_going)], block.limits)
