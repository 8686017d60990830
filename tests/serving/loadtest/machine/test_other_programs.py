"""The share of the CPUs that other programs take, measured with programs that really compute."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hangtag.serving.loadtest.machine.other_programs import other_programs
from hangtag.serving.loadtest.machine.processes import cpu_seconds

COMPUTE = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True: pass
"""
# Starts the above as a process that is no descendant of the test's, since the process in between ends at once.
DETACH = f"""
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-c", {COMPUTE!r}], stdout=subprocess.PIPE)
print(process.pid, process.stdout.readline().decode(), flush=True)
os._exit(0)
"""
SECONDS = 0.8


@contextmanager
def stranger() -> Iterator[tuple[int, int]]:
    """A program that computes on one CPU, is no child of ours, and listens on the port whose number follows its id."""
    started = subprocess.run([sys.executable, "-c", DETACH], stdout=subprocess.PIPE, check=True, text=True)
    pid, port = map(int, started.stdout.split())
    try:
        yield pid, port
    finally:
        os.kill(pid, 9)


def wait(seconds: float) -> None:
    """Wait on a socket that nobody connects to, without computing."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(seconds)
        with pytest.raises(TimeoutError):
            waiting.accept()


def test_a_program_that_computes_is_another_but_not_where_it_is_the_server() -> None:
    """Both shares are of the same time, so that what still other programs do cannot explain the difference."""
    with (
        stranger() as (pid, port),
        other_programs() as everybody,
        other_programs([f"127.0.0.1:{port}"]) as all_but_the_server,
    ):
        begin, before = time.monotonic(), cpu_seconds([pid])
        wait(SECONDS)
        share = (cpu_seconds([pid]) - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
    assert everybody.share is not None
    assert all_but_the_server.share is not None
    assert share > 0.05
    assert everybody.share >= 0.8 * share
    assert everybody.share - all_but_the_server.share == pytest.approx(share, rel=0.3)


def test_the_processes_of_two_servers_are_both_known() -> None:
    with stranger() as (one, one_port), stranger() as (two, two_port):
        addresses = [f"127.0.0.1:{port}" for port in (one_port, two_port)]
        with other_programs(addresses[:1]) as all_but_one, other_programs(addresses) as all_but_both:
            begin, before = time.monotonic(), cpu_seconds([two])
            wait(SECONDS)
            share = (cpu_seconds([two]) - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
        assert one != two
    assert all_but_one.share is not None
    assert all_but_both.share is not None
    assert all_but_one.share - all_but_both.share == pytest.approx(share, rel=0.3)


def test_a_time_of_few_ticks_tells_nothing() -> None:
    with other_programs() as others:
        pass
    assert others.share is None


def test_the_share_is_exact_where_the_counts_are_known(tmp_path: Path) -> None:
    """Of 400 ticks 100 are busy in processes, and this process took hardly any of them."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    with other_programs(stat=stat) as others:
        wait(SECONDS)
        stat.write_text("cpu  60 20 20 200 10 40 50 0 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert others.share == pytest.approx(0.25, abs=0.05)


def test_it_is_unknown_where_the_server_cannot_be_told_or_nothing_is_counted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with other_programs([f"127.0.0.1:{port}"]) as nobody, other_programs(stat=tmp_path / "missing") as nothing:
        wait(SECONDS)
    assert nobody.share is None
    assert nothing.share is None
