import os
from pathlib import Path

import pytest

from hangtag.serving.server.host.cpus import usable_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def v1(cgroup: Path, quota: str, period: str) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu/cpu.cfs_period_us").write_text(f"{period}\n")


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


@pytest.mark.parametrize(("quota", "cpus"), [("300000", 3), ("250000", 3), ("-1", 8), ("", 8)])
def test_a_version_1_quota(tmp_path: Path, quota: str, cpus: int) -> None:
    v1(tmp_path, quota, "100000")
    assert usable_cpus(tmp_path) == cpus


def test_version_2_comes_first(tmp_path: Path) -> None:
    v1(tmp_path, "100000", "100000")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert usable_cpus(tmp_path) == 4


def test_without_a_cgroup_the_affinity_mask_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cpus(tmp_path) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {5})
    assert usable_cpus(tmp_path) == 1


def test_the_mask_of_this_very_process_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cpus(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)
