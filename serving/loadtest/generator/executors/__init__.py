"""Executors issue the queries of one block: one module for each kind of load, one for what they share."""

from collections.abc import Sequence

from hangtag.serving.loadtest.generator.channels import Channel
from hangtag.serving.loadtest.generator.executors.closed_loop import ClosedLoopExecutor
from hangtag.serving.loadtest.generator.executors.executor import Executor, ProcessShare
from hangtag.serving.loadtest.generator.executors.open_loop import OpenLoopExecutor
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool
from hangtag.serving.loadtest.plan.load import ClosedLoop


def create(
    block: Block, channels: Sequence[Channel], pool: RequestPool, settings: CallSettings, share: ProcessShare
) -> Executor:
    """The executor for the block's kind of load."""
    if isinstance(block.load, ClosedLoop):
        return ClosedLoopExecutor(block, block.load, channels, pool, settings, share)
    return OpenLoopExecutor(block, block.load, channels, pool, settings, share)
