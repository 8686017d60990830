"""Why a run is INVALID or DOUBTFUL, and the notes on a valid run."""

import html
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.kit.fake_server import FakeServer, running
from tests.kit.waiting import pass_time
from tests.serving.loadtest.command import LOOP, QUICK, Loadtest

STRANGER = "import os\nif child := os.fork(): print(child, flush=True); os._exit(0)\nos.close(1)\nwhile True: pass"


@contextmanager
def strangers() -> Iterator[None]:
    """Keep every CPU busy with orphaned processes, which are not descendants of this process."""
    started = [
        subprocess.run([sys.executable, "-c", STRANGER], stdout=subprocess.PIPE, check=True, text=True).stdout
        for _ in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for pid in started:
            os.kill(int(pid), signal.SIGKILL)


def test_a_run_keeps_a_target_latency_or_misses_it(server: FakeServer, loadtest: Loadtest, tmp_path: Path) -> None:
    """One of the server's two models answers only after 300 ms."""

    def behaviour(number: int, context: object) -> None:
        if server.requests[number].model_name == "slow":
            pass_time(0.3)

    server.behaviour = behaviour
    judged = ("--concurrency", 8, "--target-latency", "200ms", "--percentile", 50)
    page = tmp_path / "page.html"
    measured = loadtest("slow", "fast", *QUICK, *judged, "--html", page)
    slow, fast = measured.runs
    assert (fast["keeps_target"], slow["keeps_target"]) == (True, False)
    assert fast["percentile_bound"] < 0.2 < slow["percentile_bound"]
    assert "fast at 8 in flight keeps p50 within 200 ms (99 % confidence)." in measured.text
    assert "slow at 8 in flight is not proven to keep p50 within 200 ms (99 % confidence)." in measured.text
    assert all(f"{verdict} 200 ms</span>" in page.read_text() for verdict in ("keeps", "misses"))
    assert "Which: Choose fast by the figures of a single block." in measured.text


@pytest.mark.usefixtures("spawned")
def test_a_generator_that_takes_the_servers_cpu_time_says_so(tmp_path: Path) -> None:
    """The server and the generator share one CPU, which the server keeps busy."""
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})  # processes that start from now on inherit the affinity
        with running(FakeServer()) as server:
            measured = Loadtest(server, tmp_path)("fast", *QUICK, "--concurrency", 4, "--min-duration", "800ms")
    finally:
        os.sched_setaffinity(0, usable)
    (run,) = measured.runs
    assert run["limited_by_generator"]
    assert run["total"]["cpus_busy"] > 0.9
    assert 0.02 < run["total"]["generator_cpu_share"] < 1
    # While the generator's threads wait for the CPU, they count as busy.
    assert run["total"]["generator_cpu"] < run["total"]["generator_busy"] <= 1.1
    assert "note fast, 4 in flight: the generator " in measured.text


def test_a_program_that_computes_meanwhile_makes_the_run_doubtful(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    server.behaviour = lambda number, context: pass_time(0.02)  # longer than the generator waits for a CPU
    page = tmp_path / "page.html"
    more = ("--concurrency", 1, "--min-duration", "1s", "--html", page)
    with strangers():
        measured = loadtest("fast", *QUICK, *more)
    (run,) = measured.runs
    share = run["total"]["others_cpu_share"]
    assert share > 0.1
    assert run["doubt"] == "other programs took 10% or more of this machine's CPUs during the run"
    assert f"Other programs took up to {share:.0%} of this machine's CPUs during a run." in measured.text
    assert run["valid"]
    assert measured.exit_code == 0
    assert f"DOUBTFUL fast, 1 in flight: {run['doubt']}" in measured.text
    assert "VALID, but DOUBTFUL: 1 of 1 runs are doubtful, for the reasons above." in measured.text
    assert run["doubt"] in html.unescape(page.read_text())


def test_blocks_too_short_to_measure_other_programs_are_named_as_the_reason(loadtest: Loadtest) -> None:
    command = ("fast", *LOOP, "--min-query-count", 1)
    short = loadtest(*command)
    # On a busy machine, even these blocks may take 250 ms or more, so test_machine tests a period of almost 0 ms.
    unknown = short.run("fast")["total"]["others_cpu_share"] is None
    assert ("is unknown, because each block took less than 250 ms (raise --min-duration)" in short.text) is unknown
    enough = loadtest(*command, "--min-duration", "600ms")
    assert enough.run("fast")["total"]["others_cpu_share"] is not None
    assert "of this machine's CPUs during a run." in enough.text
    # The generator runs on the same machine as the server.
    assert "shared this machine's CPUs with the server. The generator's busiest process used up to " in enough.text


def test_too_few_queries_for_a_p99_are_noted_and_remarks_on_several_runs_are_one(loadtest: Loadtest) -> None:
    limits = ("--min-query-count", 40, "--max-query-count", 40, "--min-duration", "1ms", "--concurrency", "1,8")
    measured = loadtest("fast", "slow", *QUICK, *limits)
    assert not any("too few" in problem for run in measured.runs for problem in run["problems"])
    first, *_ = (line for line in measured.stdout.splitlines() if line.startswith("note"))
    where = "fast, 1 in flight; slow, 1 in flight; fast, 8 in flight; slow, 8 in flight"
    assert first.startswith(f"note {where}: too few queries to judge a p99 with 99 % confidence, which needs 459 ")


RESTARTED = "the server or the model was restarted during the run"
IN_PART = "the server's own times are left out, because the server counted fewer queries than were answered"
BLOCK = 10  # Queries in a block.
Reading = Callable[[int], int | None]  # Returns a counter's value after this many answered calls.


def scripted(*readings: int | None) -> Reading:
    """Returns these readings in turn, two for each block. None stands for a failed reading."""
    left = iter(readings)
    return lambda answered: next(left)


def settled(count: int) -> tuple[int, ...]:
    """A reading that does not match the number of queries, so the load test reads the counter 16 more times."""
    return (count,) * 17


def in_turn(*earlier: int) -> Reading:
    """Simulate servers whose counters start at these counts and are read in rotation. Each answers half the calls."""
    turns = itertools.cycle(earlier)
    return lambda answered: next(turns) + answered // 2


def by_two(*_: object) -> Reading:
    counted = itertools.count(0, 100)
    return lambda answered: next(counted)


# For each model: the readings, whether a restart is reported, whether counts are missing, and the possible totals.
CASES: dict[str, tuple[Reading, bool, bool, Iterable[int | None]]] = {
    "steady": (scripted(0, 10, 10, 20, 20, 30), False, False, [30]),
    # The counter falls during the second block, and continues from the lower value.
    "restarted": (scripted(100, 110, 110, *settled(4), 4, 14), True, False, [20]),
    # The server restarts between two blocks. The next reading fails in the first case, and succeeds in the second.
    "between": (scripted(100, 110, 110, None, None, *settled(5)), True, False, [10]),
    "back-soon": (scripted(100, 110, *settled(7), 17, 17, 27), True, False, [30]),
    # The server restarted, but its new count already exceeds the old one, so only a failed call shows the restart.
    "unreachable": (scripted(0, *settled(4), 4, 14, 14, 24), True, False, [20]),
    # Counts that span several blocks cannot be assigned to a block.
    "once-silent": (scripted(100, 110, 110, None, None, 130), False, False, [10]),
    # Two servers share an address, and the load test reads the counters of one or both. In these cases, the counts
    # with which the two servers start are equal, far apart, or close together.
    "one-of-two": (in_turn(0), False, True, [None]),
    "together": (in_turn(0, 0), False, True, [None]),
    "first-older": (in_turn(1000, 5), False, True, [None]),
    "first-newer": (in_turn(5, 1000), False, True, [None]),
    "by-chance": (in_turn(5, 10), False, True, [None]),
    # The server counts a block's calls too late, or also counts calls of other clients.
    "late": (scripted(0, 5, *settled(10)[1:], 10, 20, 20, 30), False, False, [30]),
    "shared": (by_two(), False, False, [None, *range(100, 10_000)]),
}


def test_a_restart_makes_a_run_invalid_and_counters_of_several_servers_are_left_out(
    server: FakeServer, loadtest: Loadtest
) -> None:
    """Each model has separate counters, so one command measures all the cases."""
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
    result = loadtest(*CASES, "--concurrency", 1, *limits)
    for model, (_, restarted, in_part, counted) in CASES.items():
        run = result.run(model)
        total = run["total"]
        assert total["queries"] == 3 * BLOCK, model
        assert (run["restarted"], run["counted_in_part"]) == (restarted, in_part), model
        assert (RESTARTED in run["problems"]) is restarted, model
        assert not (run["valid"] and restarted), model
        assert any(note.startswith(IN_PART) for note in run["notes"]) is in_part, model
        assert (total["server"] and total["server"]["requests"]) in counted, model
        if in_part:
            assert [block["server"] for block in run["blocks"]] == [None] * 3
    assert "several servers may share the address" in result.text
