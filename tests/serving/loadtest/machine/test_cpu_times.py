import os
import time
from pathlib import Path

import pytest

from hangtag.serving.loadtest.machine.cpu_times import CpuTimes


def stat(folder: Path, *lines: str) -> Path:
    file = folder / "stat"
    file.write_text("\n".join(("cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5")))
    return file


def test_the_cpus_that_this_process_may_use_are_summed(tmp_path: Path) -> None:
    used = min(os.sched_getaffinity(0))
    before = CpuTimes.now(stat(tmp_path, f"cpu{used} 100 0 50 800 50 0 0 0 70 0", "cpu99999 0 0 0 9 0 0 0 0 0 0"))
    assert before == CpuTimes(all=1000, busy=150)
    after = CpuTimes.now(stat(tmp_path, f"cpu{used} 150 10 60 820 55 2 3 0 99 0", "cpu99999 0 0 0 9 0 0 0 0 0 0"))
    assert after.busy_share(before) == pytest.approx(0.75)


def test_a_system_that_does_not_count_has_no_busy_cpus(tmp_path: Path) -> None:
    nothing = CpuTimes.now(tmp_path / "missing")
    assert nothing.busy_share(nothing) == 0.0


def test_a_computing_process_makes_its_cpu_busy() -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        before, begin = CpuTimes.now(), time.process_time()
        while time.process_time() < begin + 0.2:
            pass
        assert CpuTimes.now().busy_share(before) > 0.8
    finally:
        os.sched_setaffinity(0, usable)
