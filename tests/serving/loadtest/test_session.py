import threading
from collections.abc import Callable

import pytest

from serving.loadtest import session
from serving.loadtest.errors import GeneratorError
from serving.loadtest.generator import Block, Snapshot
from serving.loadtest.recorder import BlockResult
from serving.loadtest.scenario import ClosedLoop, OpenLoop, Scenario
from serving.loadtest.worker import GeneratorProcess
from tests.serving.loadtest.builders import block
from tests.serving.loadtest.fake_server import FakeServer


class FakeProcess(GeneratorProcess):
    """Answers every block at once: `fast` ten times in a window of a second, `slow` four times."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def run(self, block_: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        self.blocks.append(block_)
        on_progress(Snapshot(0.1, 1, 0, 10.0, 0.001, 0.002))
        return block(block_.model, block_.load, (0.001,) * (10 if block_.model == "fast" else 4))


def test_models_take_turns_in_random_order() -> None:
    scenario = Scenario(("a", "b", "c"), concurrency=(1, 8), blocks=6)
    blocks = list(session.interleaved(scenario, scenario.closed_loops))
    assert len(blocks) == 36
    for start in range(0, 36, 3):  # Three blocks in a row: each model once, under one load.
        trio = blocks[start : start + 3]
        assert {block.model for block in trio} == {"a", "b", "c"}
        assert len({(block.load, block.round) for block in trio}) == 1
    assert len({tuple(block.model for block in blocks[start : start + 3]) for start in range(0, 36, 3)}) > 1
    assert blocks == list(session.interleaved(scenario, scenario.closed_loops))


def test_the_open_loop_runs_at_half_the_slowest_peak_for_all_models() -> None:
    process = FakeProcess()
    seen: list[session.Progress] = []
    runs = session.run(Scenario(("slow", "fast"), blocks=2), process, threading.Event(), seen.append)
    assert [(run.model, run.load) for run in runs] == [
        (model, load)
        for load in (ClosedLoop(1), ClosedLoop(8), ClosedLoop(64), OpenLoop(2.0))
        for model in ("slow", "fast")
    ]
    assert all(len(run.blocks) == 2 for run in runs)
    assert len(process.blocks) == 16
    assert seen[0].done == pytest.approx(0.1)
    assert seen[0].ahead == pytest.approx(16 * (0.15 + 1.5) - 0.1)
    assert seen[-1].ahead == pytest.approx(0.15 + 1.5 - 0.1)


def test_a_stop_leaves_what_was_measured() -> None:
    process = FakeProcess()
    stop = threading.Event()

    def stop_in_the_third_block(at: session.Progress) -> None:
        if len(process.blocks) == 3:
            stop.set()

    runs = session.run(Scenario(("slow", "fast"), concurrency=(1,)), process, stop, stop_in_the_third_block)
    assert sum(len(run.blocks) for run in runs) == 3


def test_blocks_go_through_a_process_of_their_own(server: FakeServer) -> None:
    scenario = Scenario(("fast",), server.address, concurrency=(2,), blocks=2, min_duration=0.2, min_query_count=20)
    stop = threading.Event()
    with GeneratorProcess(server.address, 1, 5.0, {"fast": (b"",)}, stop) as process:
        (run,) = session.run(scenario, process, stop, lambda progress: None)
    assert run.valid
    assert run.total.queries >= 20


def test_a_generator_that_dies_is_said(server: FakeServer) -> None:
    scenario = Scenario(("fast",), server.address, concurrency=(1,), min_duration=60.0)
    stop = threading.Event()
    with (
        GeneratorProcess(server.address, 1, 5.0, {"fast": (b"",)}, stop) as process,
        pytest.raises(GeneratorError, match="ended unexpectedly"),
    ):
        session.run(scenario, process, stop, lambda progress: process._process.kill())
