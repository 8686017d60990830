"""Executors issue the queries of one block: one module for each kind of load, one for what they share."""

from hangtag.serving.loadtest.generator.executors.closed_loop import ClosedLoopExecutor
from hangtag.serving.loadtest.generator.executors.executor import Assignment, Executor
from hangtag.serving.loadtest.generator.executors.open_loop import OpenLoopExecutor
from hangtag.serving.loadtest.plan.load import ClosedLoop

__all__ = ["Assignment", "Executor", "create"]


def create(assignment: Assignment) -> Executor:
    """The executor for the block's kind of load."""
    load = assignment.block.load
    if isinstance(load, ClosedLoop):
        return ClosedLoopExecutor(assignment, load)
    return OpenLoopExecutor(assignment, load)
