"""Why a run is INVALID or doubtful, and what is noted of a valid one."""

import html
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.fake_server import FakeServer, running
from tests.serving.loadtest.command import QUICK, measure

pytestmark = pytest.mark.slow

STRANGER = "import os\nif child := os.fork(): print(child, flush=True); os._exit(0)\nos.close(1)\nwhile True: pass"


@contextmanager
def strangers() -> Iterator[None]:
    """Programs that compute on every CPU and are no descendants of this process: each one's parent ends at once."""
    started = [
        subprocess.run([sys.executable, "-c", STRANGER], stdout=subprocess.PIPE, check=True, text=True).stdout
        for _ in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for pid in started:
            os.kill(int(pid), signal.SIGKILL)


def test_a_run_that_is_judged_has_to_be_long_enough_for_its_percentile(server: FakeServer, tmp_path: Path) -> None:
    judged = ("--concurrency", 1, "--target-latency", "1s", "--percentile", 99.99, "--max-duration", "100ms")
    measured = measure(tmp_path, "fast", "--server", server.address, *QUICK, *judged)
    (run,) = measured.runs
    early, short = run["problems"]
    assert "it ended too early" in early
    assert "queries are too few to tell a p99.99 with 99 % confidence" in short
    assert "46,050" in short
    assert (run["keeps_target"], run["percentile_bound"], run["notes"]) == (None, None, [])
    assert f"INVALID fast, 1 in flight: {short}" in measured.text


def test_a_run_keeps_a_target_latency_or_misses_it(server: FakeServer, tmp_path: Path) -> None:
    """Of two models on one server, one answers after 300 ms."""

    def behaviour(number: int, context: object) -> None:
        if server.requests[number].model_name == "slow":
            threading.Event().wait(0.3)

    server.behaviour = behaviour
    judged = ("--concurrency", 8, "--target-latency", "200ms", "--percentile", 50)
    page = tmp_path / "page.html"
    measured = measure(tmp_path, "fast", "slow", "--server", server.address, *QUICK, *judged, "--html", page)
    fast, slow = measured.runs
    assert (fast["keeps_target"], slow["keeps_target"]) == (True, False)
    assert fast["percentile_bound"] < 0.2 < slow["percentile_bound"]
    assert "fast at 8 in flight keeps p50 within 200 ms (99 % confidence)." in measured.text
    assert "slow at 8 in flight is not shown to keep p50 within 200 ms (99 % confidence)." in measured.text
    assert "keeps 200 ms</span>" in page.read_text()
    assert "misses 200 ms</span>" in page.read_text()


def test_a_generator_that_takes_the_servers_cpu_time_says_so(tmp_path: Path) -> None:
    """Both are on one CPU, which the server's computing keeps busy."""
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})  # processes that start from now on inherit it
        with running(FakeServer()) as server:
            more = ("--concurrency", 4, "--min-duration", "800ms")
            measured = measure(tmp_path, "fast", "--server", server.address, *QUICK, *more)
    finally:
        os.sched_setaffinity(0, usable)
    (run,) = measured.runs
    assert run["limited_by_generator"]
    assert run["total"]["cpus_busy"] > 0.9
    assert 0.02 < run["total"]["generator_cpu_share"] < 1
    # Its threads wait for the CPU, which counts as busy.
    assert run["total"]["generator_cpu"] < run["total"]["generator_busy"] <= 1.1
    assert "note fast, 4 in flight: the generator was " in measured.text


def test_a_program_that_computes_meanwhile_makes_the_run_doubtful(server: FakeServer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    more = ("--concurrency", 1, "--min-duration", "1s", "--html", page)
    with strangers():
        measured = measure(tmp_path, "fast", "--server", server.address, *QUICK, *more)
    (run,) = measured.runs
    share = run["total"]["others_cpu_share"]
    assert share > 0.1
    assert run["doubt"] == f"other programs took {share:.0%} of this machine's CPUs meanwhile"
    assert run["valid"]
    assert measured.exit_code == 0
    assert f"DOUBTFUL fast, 1 in flight: {run['doubt']}" in measured.text
    assert "VALID every run measured what it was to measure, but some are doubtful." in measured.text
    assert run["doubt"] in html.unescape(page.read_text())


def test_blocks_too_short_to_measure_other_programs_are_named_as_the_reason(server: FakeServer, tmp_path: Path) -> None:
    command = ("fast", "--server", server.address, *QUICK, "--concurrency", 1, "--min-query-count", 1)
    short = measure(tmp_path, *command)
    total = short.run("fast")["total"]
    unknown = total["others_cpu_share"] is None
    assert unknown or total["duration"] > 0.2  # a busy machine lengthens even a short block
    assert ("is not known, since each block took less than 250 ms: raise --min-duration" in short.text) is unknown
    enough = measure(tmp_path, *command, "--min-duration", "600ms")
    assert enough.run("fast")["total"]["others_cpu_share"] is not None
    assert "of this machine's CPUs during a run." in enough.text
    # The generator is on this machine too.
    assert "The generator shared this machine's CPUs with the server; its busiest process took up to " in enough.text


def test_too_few_queries_for_a_p99_are_noted_and_remarks_on_several_runs_are_one(
    server: FakeServer, tmp_path: Path
) -> None:
    limits = ("--min-query-count", 40, "--max-query-count", 40, "--min-duration", "1ms", "--concurrency", "1,8")
    measured = measure(tmp_path, "fast", "slow", "--server", server.address, *QUICK, *limits)
    assert all(run["valid"] for run in measured.runs)
    first, *_ = (line for line in measured.stdout.splitlines() if line.startswith("note"))
    where = "fast, 1 in flight; slow, 1 in flight; fast, 8 in flight; slow, 8 in flight"
    assert first.startswith(f"note {where}: 40 ")
    assert "queries are too few to tell a p99 with 99 % confidence: that takes 459" in first
