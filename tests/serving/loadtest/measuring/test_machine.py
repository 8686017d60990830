"""CPU time belongs to this process and its descendants, to the servers under test, or to other programs."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hangtag.serving.loadtest.machine_check import OtherPrograms
from tests.kit.waiting import until

pytestmark = pytest.mark.quick
TIMES = type(psutil.cpu_times())

# A program that computes for 0.3 s whenever it reads a line. It is a child of the test or, if its kind is
# "stranger", an orphan. If an address is given, the program listens there.
PROGRAM = """
import os, socket, sys, time
kind, address = sys.argv[1:]
if kind == "stranger" and os.fork():
    os._exit(0)
port = 0
if address.startswith("unix"):
    server = socket.socket(socket.AF_UNIX)
    server.bind("\\0" + address.partition(":")[2] if "abstract" in address else address.partition(":")[2])
    server.listen()
elif address:
    server = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port = server.getsockname()[1]
print(os.getpid(), port, flush=True)
for line in sys.stdin:
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    print(flush=True)
"""


@contextmanager
def program(kind: str, address: str = "", executable: str = sys.executable) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run PROGRAM. Yield the address at which it listens, and a function that makes it compute."""
    command = [executable, "-c", PROGRAM, kind, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        sent, received = process.stdin, process.stdout
        pid, port = received.readline().split()

        def compute() -> None:
            print(file=sent, flush=True)
            received.readline()

        if port != "0":
            address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        try:
            yield address, compute
        finally:
            os.kill(int(pid), signal.SIGKILL)


def wait() -> None:
    """Wait for 0.3 seconds without using CPU time."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.accept()


def share_of_others(*addresses: str, meanwhile: Callable[[], None] = wait) -> float | None:
    """The share of the CPU time that programs other than these servers use while ``meanwhile`` runs. All programs
    together use 25 % of the CPU time."""
    counts = iter((TIMES(*[0.0] * 10), TIMES(0.6, 0.2, 0.2, 2.0, 0.1, 0.4, 0.5, 0.0, 0.05, 0.05)))
    others = OtherPrograms(addresses, lambda: next(counts))
    meanwhile()
    return others.share()


ALL, LESS = pytest.approx(0.25, abs=0.02), pytest.approx(0.25 - 0.3 / 4, abs=0.05)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "unix:FOLDER/socket", "unix-abstract:FOLDER/socket"])
def test_a_program_is_another_but_not_while_it_listens_at_a_servers_address(tmp_path: Path, address: str) -> None:
    with program("stranger", address.replace("FOLDER", str(tmp_path))) as (server, compute):
        assert share_of_others(meanwhile=compute) == ALL
        assert share_of_others(server, meanwhile=compute) == LESS
    until(lambda: share_of_others(server) is None)  # no process listens at the address any more


def test_a_childs_time_is_not_that_of_others_while_it_runs_and_after() -> None:
    with program("child") as (_, compute):
        assert share_of_others(meanwhile=compute) == LESS

    def compute_and_end() -> None:
        with program("child") as (_, compute):
            compute()

    assert share_of_others(meanwhile=compute_and_end) == LESS


def test_the_share_is_unknown_where_the_time_is_short() -> None:
    assert share_of_others(meanwhile=lambda: None) is None


def test_a_forwarder_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """The kernel names a process after the file that the process executes."""
    name = tmp_path / "docker-proxy"
    name.symlink_to(sys.executable)
    with program("child", "127.0.0.1", str(name)) as (server, _):
        assert share_of_others(server) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_listener_of_another_user_is_unknown() -> None:
    with program("child", "127.0.0.1") as (server, _):
        code = f"""
import os, select
from hangtag.serving.loadtest.machine_check import OtherPrograms  # before, as others may not read its folder
os.setuid(65534)
for addresses in [], ["{server}"]:
    others = OtherPrograms(addresses)
    select.select([], [], [], 0.3)
    print(others.share() is None)"""
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["False", "True"]
