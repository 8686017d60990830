"""Whose CPU time it is: descendants, the processes that listen at an address, and all other programs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hangtag.serving.loadtest.machine import processes
from hangtag.serving.loadtest.machine.other_programs import other_programs

BUSY = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
LISTENER = """
import socket, sys
address = sys.argv[1]
if address.startswith("unix"):
    server = socket.socket(socket.AF_UNIX)
    server.bind("\\0" + address.partition(":")[2] if "abstract" in address else address.partition(":")[2])
else:
    server = socket.socket(socket.AF_INET6 if address == "::1" else socket.AF_INET)
    server.bind((address, 0))
server.listen()
print(server.getsockname()[1] if "." in address or address == "::1" else 0, flush=True)
input()
"""
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
def listening(address: str, executable: str = sys.executable) -> Iterator[tuple[int, int]]:
    """A process that listens; its id and its port."""
    with subprocess.Popen(
        [executable, "-c", LISTENER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
        process.communicate(b"\n")


@contextmanager
def stranger() -> Iterator[tuple[int, int]]:
    """A program that computes on one CPU, is no child of ours, and listens on the port whose number follows its id."""
    started = subprocess.run([sys.executable, "-c", DETACH], stdout=subprocess.PIPE, check=True, text=True)
    pid, port = map(int, started.stdout.split())
    try:
        yield pid, port
    finally:
        os.kill(pid, signal.SIGKILL)


def wait(seconds: float) -> None:
    """Wait on a socket that nobody connects to, without computing."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(seconds)
        with pytest.raises(TimeoutError):
            waiting.accept()


def test_a_childs_time_counts_while_it_runs_and_after() -> None:
    def own() -> float:
        return processes.cpu_seconds(processes.family(os.getpid()))

    before = own()
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()  # It has computed for 0.3 s, and waits.
    assert child.pid in processes.family(os.getpid())
    assert processes.cpu_seconds([child.pid]) > 0.2
    assert own() - before > 0.2
    child.communicate(b"\n")
    assert own() - before > 0.2
    assert processes.family(child.pid) == {child.pid}
    assert processes.cpu_seconds([child.pid]) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "unix:FOLDER/socket", "unix-abstract:FOLDER/socket"])
def test_the_process_that_listens_at_an_address_is_found(tmp_path: Path, address: str) -> None:
    address = address.replace("FOLDER", str(tmp_path))
    with listening(address) as (pid, port):
        where = address if "unix" in address else f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        assert processes.listeners(where) == {pid}
    if port:
        assert processes.listeners(where) == set()


def test_all_processes_that_share_a_port_are_found() -> None:
    """A child inherits the listening socket, as worker processes do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", "print(flush=True); input()"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[server.fileno()]
        ) as child:
            assert child.stdout
            child.stdout.readline()
            assert processes.listeners(f"localhost:{server.getsockname()[1]}") == {os.getpid(), child.pid}
            child.communicate(b"\n")


def test_a_forwarder_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """The kernel names a process after the file that it runs."""
    name = tmp_path / "docker-proxy"
    name.symlink_to(sys.executable)
    with listening("127.0.0.1", str(name)) as (_, port):
        assert processes.listeners(f"127.0.0.1:{port}") == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_listener_of_another_user_is_unknown() -> None:
    with listening("127.0.0.1") as (_, port):
        code = f"""
import os
from hangtag.serving.loadtest.machine import processes  # before, since the other user may not read its folder
os.setuid(65534)
print(processes.listeners("127.0.0.1:{port}"))"""
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "set()"


def test_a_program_that_computes_is_another_but_not_where_it_is_the_server() -> None:
    """Both shares are of the same time, so that what still other programs do cannot explain the difference."""
    with (
        stranger() as (pid, port),
        other_programs() as everybody,
        other_programs([f"127.0.0.1:{port}"]) as all_but_the_server,
    ):
        begin, before = time.monotonic(), processes.cpu_seconds([pid])
        wait(SECONDS)
        share = (processes.cpu_seconds([pid]) - before) / (time.monotonic() - begin) / (os.cpu_count() or 1)
    assert everybody.share is not None
    assert all_but_the_server.share is not None
    assert share > 0.01
    assert everybody.share >= 0.8 * share
    assert everybody.share - all_but_the_server.share == pytest.approx(share, rel=0.3)


def test_the_share_is_exact_where_the_counts_are_known_and_else_unknown(tmp_path: Path) -> None:
    """Of 40,000 ticks 10,000 are busy in processes, and this process took hardly any of them."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # where nobody listens any more
    with (
        other_programs(stat=stat) as others,
        other_programs([f"127.0.0.1:{port}"]) as nobody,
        other_programs(stat=tmp_path / "missing") as nothing,
    ):
        wait(SECONDS)
        stat.write_text("cpu  6000 2000 2000 20000 1000 4000 5000 0 500 500\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert others.share == pytest.approx(0.25, abs=0.05)
    assert (nobody.share, nothing.share) == (None, None)
