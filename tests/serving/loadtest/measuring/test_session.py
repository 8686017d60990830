import itertools
import threading
from collections.abc import Callable, Iterable

import pytest

from hangtag.serving.loadtest.errors import GeneratorError
from hangtag.serving.loadtest.generator.block_result import BlockResult
from hangtag.serving.loadtest.generator.messages import INFER, Block, CallSettings, RequestPool, Snapshot
from hangtag.serving.loadtest.generator.processes import GeneratorProcesses
from hangtag.serving.loadtest.measuring import session
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.measuring.server_counts import MORE_READINGS, ReadCounters
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.statistics.server_timings import ServerTimings
from tests.serving.loadtest.builders import block, targets
from tests.serving.loadtest.fake_server import FakeServer

pytestmark = pytest.mark.slow


class FakeGenerators(GeneratorProcesses):
    """Answers every block at once: `fast` ten times in a window of a second, `slow` four times; `failed` calls fail."""

    def __init__(self, failed: int = 0) -> None:
        self.blocks: list[Block] = []
        self._failed = failed

    def run(self, block_: Block, on_progress: Callable[[Snapshot], None]) -> BlockResult:
        self.blocks.append(block_)
        on_progress(Snapshot(0.1, 1, 0, 10.0, 0.001, 0.002))
        answers = 10 if block_.target == "fast" else 4
        return block(block_.target, block_.load, (0.001,) * answers, failed=self._failed)


def run(
    scenario: Scenario,
    generators: GeneratorProcesses,
    stop: threading.Event,
    on_progress: Callable[[session.Progress], None] = lambda progress: None,
    counters: ReadCounters = lambda name: None,
) -> tuple[Run, ...]:
    return session.Session(scenario, generators, stop, on_progress, counters).run()


def test_the_targets_blocks_are_interleaved_in_random_order() -> None:
    scenario = Scenario(targets("a", "b", "c"), concurrency=(1, 8), blocks=6)
    blocks = list(session.interleaved(scenario, scenario.closed_loops))
    assert len(blocks) == 36
    for start in range(0, 36, 3):  # Three blocks in a row: each model once, under one load.
        trio = blocks[start : start + 3]
        assert {block.target for block in trio} == {"a", "b", "c"}
        assert len({(block.load, block.round) for block in trio}) == 1
    assert len({tuple(block.target for block in blocks[start : start + 3]) for start in range(0, 36, 3)}) > 1
    assert blocks == list(session.interleaved(scenario, scenario.closed_loops))


def test_the_open_loop_runs_at_half_the_slowest_peak_for_all_models() -> None:
    generators = FakeGenerators()
    seen: list[session.Progress] = []
    runs = run(Scenario(targets("slow", "fast"), blocks=2), generators, threading.Event(), seen.append)
    assert [(run.target, run.load) for run in runs] == [
        (model, load)
        for load in (ClosedLoop(1), ClosedLoop(8), ClosedLoop(64), OpenLoop(2.0))
        for model in ("slow", "fast")
    ]
    assert all(len(run.blocks) == 2 for run in runs)
    assert len(generators.blocks) == 16
    assert seen[0].done == pytest.approx(0.1)
    first_block = (250 - 1) / 10.0  # Of the 250 queries, ten a second.
    assert seen[0].ahead == pytest.approx(first_block + 15 * (0.15 + 1.5))
    assert seen[-1].ahead == pytest.approx(first_block)


@pytest.mark.parametrize(
    ("elapsed", "queries", "rate", "needs"),
    [
        (0.1, 0, 0.0, 3.1),  # In the warm-up.
        (1.2, 90, 90.0, 2.0),
        (1.2, 20, 20.0, 4.0),  # 80 queries are missing.
        (1.2, 1, 1.0, 9.0),  # But not longer than the maximum.
        (12.0, 1, 1.0, 0.0),
    ],
)
def test_a_block_needs_both_minima_or_a_maximum(elapsed: float, queries: int, rate: float, needs: float) -> None:
    running = Block("fast", ClosedLoop(1), Limits(3.0, 100, 10.0, 1000), warm_up=0.2, seed=0, round=0)
    now = Snapshot(elapsed, queries, 0, rate, 0.001, 0.002)
    assert session.remaining(running, now) == pytest.approx(needs)


def test_after_a_stop_the_measured_blocks_remain() -> None:
    generators = FakeGenerators()
    stop = threading.Event()

    def stop_in_the_third_block(progress: session.Progress) -> None:
        if len(generators.blocks) == 3:
            stop.set()

    runs = run(Scenario(targets("slow", "fast"), concurrency=(1,)), generators, stop, stop_in_the_third_block)
    assert sum(len(run.blocks) for run in runs) == 3


def test_a_block_holds_what_the_server_counted_during_it() -> None:
    counted = iter(range(0, 1000, 10))
    runs = run(
        Scenario(targets("fast"), concurrency=(1,), blocks=3),
        FakeGenerators(),
        threading.Event(),
        counters=lambda name: ServerTimings(count=next(counted), queue=0.5),
    )
    assert runs[0].total.server == ServerTimings(count=30)
    assert runs[0].valid


RESTARTED = "the server or the model was restarted while it was measured"
IN_PART = "the server's own times are left out, because its counters lack queries that were answered"


def steady(count: int) -> list[int]:
    """The counter of one server, which is read several times because it does not fit the queries."""
    return [count] * (1 + MORE_READINGS)


def counted(counts: Iterable[int | None], generators: FakeGenerators) -> Run:
    """A run of three blocks with these readings of the server's counter, None where it does not answer."""
    readings = iter(counts)
    (measured,) = run(
        Scenario(targets("fast"), concurrency=(1,), blocks=3),
        generators,
        threading.Event(),
        counters=lambda name: None if (count := next(readings)) is None else ServerTimings(count=count),
    )
    assert measured.counted_in_part == any(note.startswith(IN_PART) for note in measured.notes)
    return measured


def test_a_restarted_server_makes_its_run_invalid() -> None:
    """Its counter falls during the second block, and goes on from there."""
    restarted = counted([100, 110, 110, *steady(4), 4, 14], FakeGenerators())
    assert restarted.problems == (RESTARTED,)
    assert restarted.total.server == ServerTimings(count=20)


@pytest.mark.parametrize("counts", [[100, 110, 110, None, None, *steady(5)], [100, 110, *steady(7), 17, 17, 27]])
def test_a_restart_between_two_blocks_makes_its_run_invalid(counts: list[int | None]) -> None:
    """It was unreachable at the end of one block and the start of the next, or back before its counters were read."""
    restarted = counted(counts, FakeGenerators())
    assert restarted.problems == (RESTARTED,)
    assert not restarted.counted_in_part


def test_a_server_that_was_unreachable_and_lacks_queries_has_restarted() -> None:
    """It had counted fewer before than it counted afterwards, so that its counter did not fall."""
    restarted = counted([0, *steady(4), 4, 14, 14, 24], FakeGenerators(failed=1))
    assert restarted.problems == ("3 of 33 calls failed (3 UNAVAILABLE)", RESTARTED)
    assert restarted.total.server == ServerTimings(count=20)


def test_a_server_that_did_not_answer_once_has_not_restarted() -> None:
    whole = counted([100, 110, 110, None, None, 130], FakeGenerators())
    assert whole.valid
    assert whole.total.server == ServerTimings(count=10)  # Counts over more than one block belong to no block.


@pytest.mark.parametrize(
    "earlier",
    [
        (0,),  # One of two servers answers every reading,
        (0, 0),  # or both in turn: they started together,
        (1000, 5),  # one of them long before,
        (5, 1000),
        (5, 10),  # or so that the first readings fit by chance.
    ],
)
def test_counters_of_two_servers_behind_one_address_are_left_out_and_are_no_restart(earlier: tuple[int, ...]) -> None:
    generators, turns = FakeGenerators(), itertools.cycle(earlier)
    # Each of the two answers five of a block's ten queries.
    balanced = counted((count + 5 * len(generators.blocks) for count in turns), generators)
    assert balanced.valid
    assert balanced.counted_in_part
    assert [block.server for block in balanced.blocks] == [None] * 3


def test_a_server_that_counts_late_or_answers_other_clients_too_keeps_its_figures() -> None:
    late = counted([0, 5, *[10] * MORE_READINGS, 10, 20, 20, 30], FakeGenerators())
    assert (late.valid, late.counted_in_part, late.total.server) == (True, False, ServerTimings(count=30))
    shared = counted(range(0, 100_000, 100), FakeGenerators())
    assert (shared.valid, shared.counted_in_part) == (True, False)
    assert shared.total.server is not None


def request_pools(server: FakeServer) -> dict[str, RequestPool]:
    return {"fast": RequestPool(server.address, INFER, (b"",))}


@pytest.mark.parametrize("processes", [1, 3])
def test_blocks_run_in_generator_processes(server: FakeServer, processes: int) -> None:
    scenario = Scenario(
        targets("fast", address=server.address),
        concurrency=(4,),
        rate=(50.0,),
        blocks=2,
        min_duration=0.2,
        min_query_count=20,
    )
    stop = threading.Event()
    with GeneratorProcesses(request_pools(server), CallSettings(1, 5.0), processes, stop) as generators:
        assert generators.channel_names == "grpcio's completion queue"
        closed, opened = run(scenario, generators, stop)
    assert closed.valid
    assert closed.total.queries >= 20
    assert opened.total.queries == opened.total.statuses["OK"] >= 20
    assert opened.total.finished


def test_the_stop_event_ends_a_block_early(server: FakeServer) -> None:
    scenario = Scenario(targets("fast", address=server.address), concurrency=(2,), min_duration=60.0)
    stop = threading.Event()
    with GeneratorProcesses(request_pools(server), CallSettings(1, 5.0), 2, stop) as generators:
        (ended,) = run(
            scenario, generators, stop, lambda progress: stop.set() if progress.snapshot.queries > 5 else None
        )
    assert not ended.total.finished
    assert ended.total.queries > 5


def test_a_generator_process_that_dies_is_reported(server: FakeServer) -> None:
    scenario = Scenario(targets("fast", address=server.address), concurrency=(2,), min_duration=60.0)
    stop = threading.Event()
    with (
        GeneratorProcesses(request_pools(server), CallSettings(1, 5.0), 2, stop) as generators,
        pytest.raises(GeneratorError, match="ended unexpectedly"),
    ):
        run(scenario, generators, stop, lambda progress: generators._processes[1].kill())
