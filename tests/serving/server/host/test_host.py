"""The machine: processors, memory that goes back, open files, and files that are watched."""

import ctypes
import gc
import os
import re
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import structlog.testing

from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host import memory, open_files
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.host.watched_files import WatchedFiles
from tests.kit.forkserver import Forked


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def v1(cgroup: Path, quota: str, period: str) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu/cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("written", "cpus"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
        ("max 100000", 8),
        ("50000 25000", 2),
        ("", 8),
        ("nonsense", 8),
        ("1 0", 8),
    ],
)
def test_a_version_2_quota(tmp_path: Path, written: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{written}\n")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(("quota", "cpus"), [("300000", 3), ("250000", 3), ("-1", 8), ("", 8)])
def test_a_version_1_quota(tmp_path: Path, quota: str, cpus: int) -> None:
    v1(tmp_path, quota, "100000")
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.usefixtures("eight_cpus")
def test_version_2_comes_first(tmp_path: Path) -> None:
    v1(tmp_path, "100000", "100000")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert usable_cpus(tmp_path) == 4


@pytest.mark.usefixtures("eight_cpus")
def test_without_a_cgroup_the_affinity_mask_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cpus(tmp_path) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {5})
    assert usable_cpus(tmp_path) == 1


def test_the_mask_of_this_very_process_is_read(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


PROGRAM = """
import gc, os
from hangtag.serving.server.host import memory
from studies.soak.processes import sample

def rss_mib():
    return sample(os.getpid(), 0).rss_mb

pieces = [bytes(100_000) for _ in range(1000)]  # below glibc's mmap threshold, so glibc keeps them after they are freed
kept = pieces[-1]
taken = rss_mib()
del pieces
memory.release_loading_memory()
print(taken - rss_mib(), gc.get_freeze_count())
"""


def test_memory_that_is_not_needed_goes_back_and_the_rest_is_frozen() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back_mib, frozen = map(float, done.stdout.split())
    assert given_back_mib > 50
    assert frozen > 1000


def test_objects_that_only_refer_to_each_other_are_freed() -> None:
    class Connection:
        other: "Connection"

    connection, protocol = Connection(), Connection()
    connection.other, protocol.other = protocol, connection
    gone = weakref.ref(connection)
    gc.collect(1)
    del connection, protocol
    memory.release_freed_memory()
    assert gone() is None


HOLES = """
import os
from hangtag.serving.server.host import memory
from studies.soak.processes import sample

def rss_mib():
    return sample(os.getpid(), 0).rss_mb

memory.give_back_large_blocks()
bytes(20 << 20)  # by default glibc puts blocks of this size among small ones from now on
before = rss_mib()
blocks, small = [], []
for _ in range(50):
    blocks.append(b"x" * (2 << 20))
    small.append(b"x" * 100_000)  # larger than the holes that importing left
del blocks
print(rss_mib() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's mallopt")
@pytest.mark.parametrize(("variables", "mib"), [({}, 0), ({"MALLOC_MMAP_THRESHOLD_": str(32 << 20)}, 100)])
def test_large_blocks_among_small_ones_go_back_unless_the_operator_decided_otherwise(
    variables: dict[str, str], mib: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, env=os.environ | variables
    )
    assert float(done.stdout) == pytest.approx(mib, abs=20)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(soft: int, hard: int, connections: int) -> None:
    """Print the limit after it was raised."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    open_files.raise_limit(connections)
    say(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def exhaust(soft: int) -> None:
    """Check before all files are open, while, and after."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    files = open_files.OpenFiles()
    files.check()
    say("free")
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        files.check()
        files.check()
    say("full")
    for descriptor in taken:
        os.close(descriptor)
    files.check()


def output(work: object, *arguments: int) -> str:
    with Forked(work, *arguments) as process:  # type: ignore[arg-type]
        stdout, stderr = process.communicate(30)
        assert process.returncode == 0, stderr
        return stdout


def test_the_limit_is_raised_to_what_the_system_allows() -> None:
    assert output(run, 256, 4096, 1024).splitlines() == ["4096"]


def test_a_limit_that_is_too_low_is_a_warning() -> None:
    warning, limit = output(run, 256, 512, 1024).splitlines()
    assert limit == "512"
    assert "--max-connections" in warning
    assert re.findall(r"limit=(\d+) needed=(\d+)", warning) == [("512", "1280")]


def test_a_process_that_can_open_no_more_files_says_so() -> None:
    free, warning, full, over = output(exhaust, 64).splitlines()
    assert (free, full) == ("free", "full")
    assert "no more files can be opened" in warning
    assert "limit=64" in warning
    assert "files can be opened again" in over


def word(path: Path) -> str:
    text = path.read_text()
    if " " in text:
        raise StartError("not one word")
    return text


def test_a_change_is_seen_and_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    assert watched.current() == "first"
    file.write_text("second")
    with structlog.testing.capture_logs() as log:
        assert [watched.current(), watched.current()] == ["second", "second"]
    assert [line["event"] for line in log] == ["words reloaded"]


def test_an_invalid_file_leaves_the_last_valid_value_and_is_logged_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("good")
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    file.write_text("no good")
    with structlog.testing.capture_logs() as log:
        assert [watched.current() for _ in range(3)] == ["good"] * 3
    assert [(line["event"], line["reason"]) for line in log] == [
        ("words not reloaded; the ones from before stay in use", "not one word")
    ]
    file.write_text("better")
    assert watched.current() == "better"


def test_a_change_during_the_reading_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
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


def test_a_file_swapped_by_a_link_as_kubernetes_does_is_a_change(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))  # same size, same time
    link = tmp_path / "link"
    link.symlink_to("old")
    watched = WatchedFiles("words", [link], lambda: word(link), 0)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    assert watched.current() == "new"


def test_a_file_overwritten_in_place_with_equal_size_and_time_is_a_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    os.utime(file, (1, 1))
    watched = WatchedFiles("words", [file], lambda: word(file), 0)
    with file.open("r+") as opened:
        opened.write("new")
    os.utime(file, (1, 1))
    assert watched.current() == "new"


def test_the_disk_is_not_read_at_each_call(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    watched = WatchedFiles("words", [file], lambda: word(file), 3600)
    file.unlink()
    assert watched.current() == "first"


def test_an_invalid_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no good")
    with pytest.raises(StartError, match="not one word"):
        WatchedFiles("words", [file], lambda: word(file), 0)
