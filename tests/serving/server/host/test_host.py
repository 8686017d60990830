"""How the server uses the machine: processors, memory that it releases, open files, and watched files."""

import ctypes
import gc
import os
import re
import resource
import weakref
from pathlib import Path

import pytest

from hangtag.serving.server.host import machine
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.watched_files import WatchedFiles
from tests.kit import onnx_models
from tests.kit.command import python, serving

V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": ""}, 8),
        ({"cpu.max": "1 0"}, 8),
        ({V1_QUOTA: "300000", V1_PERIOD: "100000"}, 3),
        ({V1_QUOTA: "-1", V1_PERIOD: "100000"}, 8),
        ({V1_QUOTA: "", V1_PERIOD: "100000"}, 8),
        ({V1_QUOTA: "100000", V1_PERIOD: "100000", "cpu.max": "400000 100000"}, 4),
        ({}, 8),
    ],
)
def test_a_quota_of_either_version_of_cgroups_limits_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    (tmp_path / "cpu").mkdir()
    for name, written in files.items():
        (tmp_path / name).write_text(f"{written}\n")
    assert usable_cpus(tmp_path) == cpus


def test_without_a_quota_the_affinity_mask_of_this_process_decides(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


PIECES = """
import gc
from hangtag.serving.server.host import machine
from tests.kit.memory import held
pieces = [bytes(100_000) for _ in range(1000)]  # below glibc's mmap threshold, so glibc keeps them after they are freed
kept = pieces[-1]
taken = held()
del pieces
machine.release_loading_memory()
print(taken - held(), gc.get_freeze_count())
"""


def printed(program: str, **variables: str) -> list[float]:
    return [float(word) for word in python(program, **variables).stdout.split()]


def test_memory_that_is_not_needed_goes_back_and_the_rest_is_frozen() -> None:
    given_back, frozen = printed(PIECES)
    assert given_back > 50 << 20
    assert frozen > 1000


def test_objects_that_only_refer_to_each_other_are_freed() -> None:
    class Connection:
        other: "Connection"

    connection, protocol = Connection(), Connection()
    connection.other, protocol.other = protocol, connection
    gone = weakref.ref(connection)
    gc.collect(1)
    del connection, protocol
    machine.release_freed_memory()
    assert gone() is None


HOLES = """
from hangtag.serving.server.process import environment
from tests.kit.memory import held
environment.give_back_large_blocks()
bytes(20 << 20)  # by default glibc puts blocks of this size among small ones from now on
before = held()
blocks, small = [], []
for _ in range(50):
    blocks.append(b"x" * (2 << 20))
    small.append(b"x" * 100_000)  # larger than the holes that importing left
del blocks
print(held() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's mallopt")
@pytest.mark.parametrize(("variables", "mib"), [({}, 0), ({"MALLOC_MMAP_THRESHOLD_": str(32 << 20)}, 100)])
def test_large_blocks_among_small_ones_go_back_unless_the_operator_decided_otherwise(
    variables: dict[str, str], mib: int
) -> None:
    assert printed(HOLES, **variables) == [pytest.approx(mib << 20, abs=20 << 20)]


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", []), ("0.0.0.0", [("512", "2256")])])
def test_the_limit_on_open_files_is_raised_as_far_as_the_system_allows_and_an_exposed_server_warns_of_too_low_a_one(
    tmp_path: Path, host: str, warned: list[tuple[str, str]]
) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    low = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))"
    with serving("--models", tmp_path, "--port", 0, "--max-connections", 1000, "--host", host, first=low) as server:
        server.wait_for("ready")
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (512, 512)
        warning = "".join(line for line in server.log if "--max-connections" in line)
        # The server needs 1000 file descriptors for each of the two protocols, and 256 more.
        assert re.findall(r"limit=(\d+) needed=(\d+)", warning) == warned


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("first")
    return tmp_path / "file"


def test_a_change_during_the_reading_is_not_trusted(file: Path) -> None:
    reads = 0

    def read() -> str:
        nonlocal reads
        reads += 1
        text = file.read_text()
        if reads == 2:
            file.write_text("third, longer")
        return text

    watched = WatchedFiles("words", [file], read, 0)
    file.write_text("second")
    assert [watched.current(), watched.current()] == ["first", "third, longer"]


def test_the_disk_is_not_read_at_each_call(file: Path) -> None:
    watched = WatchedFiles("words", [file], file.read_text, 3600)
    file.write_text("second")
    assert watched.current() == "first"
