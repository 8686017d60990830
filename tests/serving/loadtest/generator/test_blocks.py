"""How a block ends, the order of the blocks, and the processes of the load generator."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.generator import generator_process
from tests.kit import forkserver
from tests.kit.command import environment
from tests.kit.fake_server import FakeServer, running
from tests.kit.waiting import TIMEOUT, pass_time
from tests.serving.loadtest.command import LOOP, QUICK, Loadtest

BOTH = ("--blocks", 1, "--warm-up", 0, "--concurrency", 1, "--rate", 500)


def send_signal(processes: Sequence[BaseProcess], number: int) -> None:
    for process in processes:
        assert process.pid
        os.kill(process.pid, number)


def test_the_longest_duration_ends_a_block_whatever_the_server_does(server: FakeServer, loadtest: Loadtest) -> None:
    """One model answers, one never answers, and one fails every call immediately."""
    seen, ended = set[str](), threading.Event()

    def behaviour(number: int, context: Any) -> None:
        model = server.requests[number].model_name
        first = model not in seen  # a load test calls each model once before the load
        seen.add(model)
        if model == "hangs" and not first:
            ended.wait(5)
        if model == "gone" and not first:
            context.abort(grpc.StatusCode.UNAVAILABLE, "closed")

    server.behaviour = behaviour
    server.inputs |= dict.fromkeys(("hangs", "gone"), server.inputs["fast"])
    limits = ("--min-duration", "1ms", "--min-query-count", 10_000, "--max-duration", "300ms", "--deadline", "500ms")
    result = loadtest("fast", "hangs", "gone", *BOTH, *limits)
    ended.set()
    for run in result.runs:
        assert not run["total"]["finished"]
        assert "it ended too early, after" in run["problems"][0]
    fast, hangs, gone = (result.run(name, "closed")["total"] for name in ("fast", "hangs", "gone"))
    assert fast["statuses"].keys() == {"OK"}
    assert fast["duration"] == pytest.approx(0.3, abs=0.15)
    assert hangs["statuses"] == {"DEADLINE_EXCEEDED": 1}
    assert gone["statuses"].keys() == {"UNAVAILABLE"}
    assert 1 <= gone["queries"] <= 50  # failures do not make the generator send faster
    assert gone["latency"]["count"] == 0
    assert gone["latency"]["p99"] is None


def test_the_targets_blocks_are_interleaved_in_a_random_order_that_the_seed_repeats(
    server: FakeServer, loadtest: Loadtest
) -> None:
    server.inputs |= dict.fromkeys("abc", server.inputs["fast"])
    limits = ("--blocks", 2, "--min-duration", "1ms", "--min-query-count", 4, "--warm-up", 0)

    def order() -> list[tuple[str, int]]:
        measured = loadtest(*"abc", "--concurrency", "1,2", *limits)
        names = [(run["target"], run["load"]["concurrency"]) for run in measured.runs]
        assert names == [(name, concurrency) for concurrency in (1, 2) for name in "abc"]
        starts = [
            (block["timeline"][0]["start"], name)
            for name, run in zip(names, measured.runs, strict=True)
            for block in run["blocks"]
        ]
        return [name for _, name in sorted(starts)]

    blocks = order()
    trios = [blocks[at : at + 3] for at in range(0, 12, 3)]
    for trio in trios:  # three consecutive blocks have the same load and three different targets
        assert sorted(name for name, _ in trio) == ["a", "b", "c"]
        assert len({concurrency for _, concurrency in trio}) == 1
    for at in (0, 2):  # each round runs every load once
        assert {concurrency for trio in trios[at : at + 2] for _, concurrency in trio} == {1, 2}
    assert len({tuple(name for name, _ in trio) for trio in trios}) > 1
    assert order() == blocks


def test_the_processes_share_a_load(server: FakeServer, loadtest: Loadtest) -> None:
    """With two queries in flight, one of the three processes has no query."""
    in_flight = most = 0
    lock = threading.Lock()

    def behaviour(number: int, context: Any) -> None:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight if number < len(server.requests) else most)
        pass_time(0.002)
        with lock:
            in_flight -= 1

    server.behaviour = behaviour
    limits = ("--min-duration", "1ms", "--min-query-count", 60, "--max-query-count", 60, "--blocks", 1, "--warm-up", 0)
    measured = loadtest("fast", *limits, "--processes", 3, "--rate", 300, "--arrivals", "constant")
    (opened,) = measured.runs
    assert opened["total"]["queries"] == 60
    # Together, the processes rotate through the 256 requests, although each begins at a different request.
    assert len({request.raw_input_contents[0] for request in server.requests[1:]}) == 60
    assert opened["total"]["duration"] == pytest.approx(60 / 300, abs=0.02)  # a single process takes equally long
    assert opened["total"]["finished"]
    slices = opened["total"]["timeline"]
    assert sum(each["answered"] for each in slices) == 60
    assert [each["start"] for each in slices] == sorted({each["start"] for each in slices})
    # Together, the processes used more CPU time than the busiest process alone.
    used = opened["total"]["generator_cpu_share"] * len(os.sched_getaffinity(0))
    assert used > 1.2 * opened["total"]["generator_cpu"] > 0
    most = 0
    (closed,) = loadtest("fast", *limits, "--processes", 3, "--concurrency", 2).runs
    assert most <= 2
    assert closed["total"]["queries"] >= 60
    assert measured.document["environment"]["generator"].startswith("3 processes on ")


def test_a_generator_process_that_dies_is_reported(server: FakeServer, loadtest: Loadtest) -> None:
    def behaviour(number: int, context: Any) -> None:
        if number == 20:
            generators = multiprocessing.active_children()
            assert len(generators) == 2
            generators[1].kill()

    server.behaviour = behaviour
    load = ("--concurrency", 2, "--processes", 2, "--min-duration", 60)
    loadtest.refused("a generator process ended unexpectedly", "fast", *load)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGKILL, "a generator process ended unexpectedly"),
        (signal.SIGSTOP, "a generator process was not ready within 1 s"),
    ],
    ids=["dies", "hangs"],
)
def test_a_generator_process_that_fails_while_it_connects_is_reported_and_the_others_end(
    number: int, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_process, "START_TIMEOUT", 1.0)

    class Interrupts(FakeServer):
        def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:  # each process calls this first
            send_signal(multiprocessing.active_children()[:1], number)
            return super().ServerLive(request, context)

    with running(Interrupts()) as server:
        Loadtest(server, tmp_path).refused(error, "fast", "--concurrency", 2, "--processes", 2)
    assert not multiprocessing.active_children()


def test_a_generator_process_that_hangs_after_the_last_block_is_killed(server: FakeServer, loadtest: Loadtest) -> None:
    def counters(model: str, answered: int) -> int:  # the load test calls this before and after each block
        if answered > 1:
            send_signal(multiprocessing.active_children(), signal.SIGSTOP)
        return answered

    server.counters = counters
    (run,) = loadtest("fast", *LOOP).runs
    assert run["total"]["finished"]
    assert not multiprocessing.active_children()


def test_a_full_disk_leaves_the_file_that_was_there_and_no_part_of_another(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("earlier")
    files = ("--html", str(tmp_path / "page.html"), "--csv", str(tmp_path / "results.csv"))
    command = ["loadtest", "fast", "--server", server.address, *map(str, QUICK), "--concurrency", "4", *files]
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    with forkserver.hangtag(command, variables=environment(), first=full) as process:
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert f"cannot write {tmp_path / 'page.html'}" in stderr
    assert (tmp_path / "page.html").read_text() == "earlier"
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "results.csv"}


def test_ctrl_c_in_a_terminal_which_reaches_every_process_ends_with_a_report(
    server: FakeServer, tmp_path: Path
) -> None:
    """test_loads covers a second signal, and a signal that reaches only the command's own process."""
    enough = threading.Event()
    server.behaviour = lambda number, context: enough.set() if number >= 100 else None
    report = tmp_path / "results.csv"
    command = ["loadtest", "fast", "--server", server.address, "--concurrency", "1", "--min-duration", "60"]
    with forkserver.hangtag(
        [*command, "--csv", str(report)], variables=environment(), first="import os; os.setsid()"
    ) as process:
        assert enough.wait(TIMEOUT)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(TIMEOUT)
    assert process.returncode == 1
    assert "The test was interrupted, so only a part of the test was measured." in stdout
    assert "Traceback" not in stderr
    assert len(report.read_text().splitlines()) == 2
