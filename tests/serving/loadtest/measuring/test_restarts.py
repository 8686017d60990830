"""What the server's counters say of a restart, and of several servers behind one address."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.kit.fake_server import FakeServer, refuse_one, running
from tests.serving.loadtest.command import measure

pytestmark = pytest.mark.slow

RESTARTED = "the server or the model was restarted while it was measured"
IN_PART = "the server's own times are left out, because its counters lack queries that were answered"
BLOCK = 10  # queries; a closed loop's block has one more where an answer is on its way
Reading = Callable[[int], int | None]  # of the counters, given how many calls were answered


def scripted(*readings: int | None) -> Reading:
    """These readings: one before the load, then one before and after each block; None: they cannot be read."""
    left = iter(readings)
    return lambda answered: next(left)


def settled(count: int) -> tuple[int, ...]:
    """A reading that does not fit the queries, so that the counters are read 16 times more: they stay."""
    return (count,) * 17


def in_turn(*earlier: int) -> Reading:
    """Servers that answer the readings in turn, with what each counted before; each gets its share of the calls."""
    turns = itertools.cycle(earlier)
    return lambda answered: next(turns) + answered // 2


def by_two(*_: object) -> Reading:
    counted = itertools.count(0, 100)
    return lambda answered: next(counted)


# By model: its counters, and whether its run is restarted, is counted in part, and how many calls were counted in all.
CASES: dict[str, tuple[Reading, bool, bool, Iterable[int | None]]] = {
    "steady": (scripted(0, 0, 10, 10, 20, 20, 30), False, False, [30]),
    # The counter falls during the second block, and goes on from there.
    "restarted": (scripted(100, 100, 110, 110, *settled(4), 4, 14), True, False, [20]),
    # It was unreachable at the end of a block and the start of the next, or back before its counters were read.
    "between": (scripted(100, 100, 110, 110, None, None, *settled(5)), True, False, [10]),
    "back-soon": (scripted(100, 100, 110, *settled(7), 17, 17, 27), True, False, [30]),
    # It had counted fewer before than it counts afterwards, so that its counter did not fall; a call failed.
    "unreachable": (scripted(0, 0, *settled(4), 4, 14, 14, 24), True, False, [20]),
    # Counts over more than one block belong to no block.
    "once-silent": (scripted(100, 100, 110, 110, None, None, 130), False, False, [10]),
    # One of two servers answers every reading, or both in turn: they started together, one of them long before, or so
    # that the first readings fit by chance.
    "one-of-two": (in_turn(0), False, True, [None]),
    "together": (in_turn(0, 0), False, True, [None]),
    "first-older": (in_turn(1000, 5), False, True, [None]),
    "first-newer": (in_turn(5, 1000), False, True, [None]),
    "by-chance": (in_turn(5, 10), False, True, [None]),
    # It counts a block's calls a moment later, or other clients' calls too.
    "late": (scripted(0, 0, 5, *settled(10)[1:], 10, 20, 20, 30), False, False, [30]),
    "shared": (by_two(), False, False, [None, *range(100, 10_000)]),
}


def test_a_restart_makes_a_run_invalid_and_counters_of_several_servers_are_left_out(
    server: FakeServer, tmp_path: Path
) -> None:
    """Each model has its own counters: one command measures them all."""
    server.inputs |= dict.fromkeys(CASES, server.inputs["fast"])
    server.counters = lambda model, answered: CASES[model][0](answered)
    calls = dict.fromkeys(CASES, 0)

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        model = server.requests[number].model_name
        calls[model] += 1
        if model == "unreachable" and calls[model] == 4:
            context.abort(grpc.StatusCode.UNAVAILABLE, "closed")

    server.behaviour = behaviour
    limits = ("--blocks", 3, "--min-duration", "1ms", "--min-query-count", 3 * BLOCK, "--warm-up", 0)
    result = measure(tmp_path, *CASES, "--server", server.address, "--concurrency", 1, *limits)
    for model, (_, restarted, in_part, counted) in CASES.items():
        run = result.run(model)
        total = run["total"]
        assert total["queries"] == 3 * BLOCK, model
        assert (run["restarted"], run["counted_in_part"]) == (restarted, in_part), model
        assert (RESTARTED in run["problems"]) is restarted, model
        assert run["valid"] is not restarted, model
        assert any(note.startswith(IN_PART) for note in run["notes"]) is in_part, model
        assert (total["server"] and total["server"]["requests"]) in counted, model
        if in_part:
            assert [block["server"] for block in run["blocks"]] == [None] * 3
    assert "several servers may be behind its address" in result.text


def test_a_server_that_dies_and_comes_back_is_counted_and_reached_again(tmp_path: Path) -> None:
    """One closed loop sees answers, failures while the server is down, and answers again. The run is INVALID."""
    first, second = FakeServer(), FakeServer()
    enough, again = threading.Event(), threading.Event()
    first.behaviour = lambda number, context: enough.set() if number == 50 else None
    second.behaviour = lambda number, context: again.set() if number == 50 else None

    def die_and_come_back() -> None:
        assert enough.wait(60)
        stack.close()
        refuse_one(first.address)
        with running(second, first.address):
            assert again.wait(60)
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(60)

    ended, stack = threading.Event(), ExitStack()
    stack.enter_context(running(first))
    thread = threading.Thread(target=die_and_come_back)
    thread.start()
    limits = ("--min-duration", 30, "--min-query-count", 1_000_000, "--blocks", 1, "--warm-up", 0)
    try:
        result = measure(tmp_path, "fast", "--server", first.address, "--concurrency", 2, *limits)
    finally:
        ended.set()
        thread.join()
    (run,) = result.runs
    assert run["total"]["statuses"]["OK"] >= 95
    assert set(run["total"]["statuses"]) > {"OK"}
    assert run["restarted"]
    assert RESTARTED in result.text
