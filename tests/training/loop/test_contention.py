"""A run notices that other programs take its CPU: by the kernel's count of the time that its threads wait for one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.loop import contention, trainer
from hangtag.training.loop.contention import MEASURED_STEPS, WARNED_FACTOR, ContentionMeter, CpuTime, cpu_time
from hangtag.training.observer import Observer
from hangtag.training.progress import terminal_observer
from hangtag.training.runs.run import Run
from tests.training.configs import make_config


def write_times(folder: Path, **threads: str) -> Path:
    for name, schedstat in threads.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "schedstat").write_text(schedstat)
    return folder


def test_the_times_of_all_threads_add_up(tmp_path: Path) -> None:
    write_times(tmp_path, one="2000000000 500000000 7\n", two="1000000000 0 3\n")
    assert cpu_time(tmp_path) == CpuTime(computed=3.0, waited=0.5)


def test_a_thread_that_has_just_ended_counts_nothing(tmp_path: Path) -> None:
    write_times(tmp_path, one="1000000000 0 3\n")
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended" / "schedstat").mkdir()  # cannot be read
    assert cpu_time(tmp_path) == CpuTime(computed=1.0)


def test_a_kernel_without_these_times_shows_no_slowdown(tmp_path: Path) -> None:
    meter = ContentionMeter(tmp_path / "missing")
    assert {meter.after_step() for _ in range(2 * MEASURED_STEPS)} == {1.0}


def test_the_slowdown_is_reported_once_and_without_the_first_step(tmp_path: Path) -> None:
    meter = ContentionMeter(write_times(tmp_path, one="0 9000000000 1\n"))
    assert meter.after_step() == 1.0
    write_times(tmp_path, one="1000000000 11000000000 1\n")
    later = [meter.after_step() for _ in range(2 * MEASURED_STEPS)]
    assert [slowdown for slowdown in later if slowdown != 1.0] == [pytest.approx(3.0)]


@pytest.fixture
def shared_cpu() -> Iterator[None]:
    """This thread on one CPU, which two other programs use too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    burner = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]  # inherits the one CPU
    programs = [subprocess.Popen(burner, stdout=subprocess.PIPE) for _ in range(2)]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    yield
    for program in programs:
        program.kill()
        program.communicate()
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waiting times")
@pytest.mark.usefixtures("shared_cpu")
def test_a_run_beside_other_programs_says_what_slows_it_down(
    small: FashionMnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "MEASURED_STEPS", 5)
    slowdowns: list[float] = []

    class Listening(Observer):
        def on_contention(self, slowdown: float) -> None:
            slowdowns.append(slowdown)

    trainer.train(make_config("cnn", epochs=3), small, Run(tmp_path), Listening())
    assert len(slowdowns) == 1
    assert slowdowns[0] > WARNED_FACTOR


def test_the_terminal_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(1, shown=True) as observer:
        observer.on_contention(3.14)
    with terminal_observer(1, shown=False) as observer:
        observer.on_contention(9.99)
    text = " ".join(capsys.readouterr().err.split())
    assert "takes 3.1 times as long as it computes" in text
    assert "--threads" in text
    assert "10.0" not in text
