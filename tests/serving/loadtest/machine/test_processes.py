"""What is read of processes: descendants, their CPU time, and who listens at an address."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.serving.loadtest.machine import processes

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


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test: each reads one line first."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.communicate(b"\n")


def listening(
    started: list[subprocess.Popen[bytes]], address: str, executable: str = sys.executable
) -> tuple[int, int]:
    """Start a process that listens, and return its id and its port."""
    process = subprocess.Popen([executable, "-c", LISTENER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout
    return process.pid, int(process.stdout.readline())


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_process_that_listens_on_a_port_is_found(started: list[subprocess.Popen[bytes]], host: str) -> None:
    pid, port = listening(started, host)
    assert processes.listeners(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") == {pid}


@pytest.mark.parametrize("kind", ["unix", "unix-abstract"])
def test_the_process_that_listens_on_a_unix_socket_is_found(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, kind: str
) -> None:
    address = f"{kind}:{tmp_path}/socket"
    pid, _ = listening(started, address)
    assert processes.listeners(address) == {pid}


def test_all_processes_that_share_a_port_are_found(started: list[subprocess.Popen[bytes]]) -> None:
    """A child inherits the listening socket, as worker processes do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[server.fileno()],
        )  # fmt: skip
        started.append(child)
        assert child.stdout
        child.stdout.readline()
        assert processes.listeners(f"localhost:{server.getsockname()[1]}") == {os.getpid(), child.pid}


def test_where_nobody_listens_nobody_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert processes.listeners(f"127.0.0.1:{port}") == set()


def test_a_forwarder_is_not_taken_for_the_server(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """The kernel names a process after the file that it runs."""
    name = tmp_path / "docker-proxy"
    name.symlink_to(sys.executable)
    _, port = listening(started, "127.0.0.1", str(name))
    assert processes.listeners(f"127.0.0.1:{port}") == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_listener_of_another_user_is_unknown(started: list[subprocess.Popen[bytes]]) -> None:
    _, port = listening(started, "127.0.0.1")
    code = f"""
import os
from hangtag.serving.loadtest.machine import processes  # before, since the other user may not read its folder
os.setuid(65534)
print(processes.listeners("127.0.0.1:{port}"))"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "set()"
