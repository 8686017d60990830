"""A run notices that other programs take its CPUs, and its threads spin for a moment only."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.loop import contention, trainer
from hangtag.training.loop.contention import MEASURED_STEPS, WARNED_FACTOR, ContentionMeter
from hangtag.training.observer import Observer
from hangtag.training.progress import terminal_observer
from hangtag.training.runs.run import Run
from tests.training.configs import make_config


def test_the_slowdown_is_reported_once_and_without_the_first_step() -> None:
    times = iter([100.0, 103.0])
    meter = ContentionMeter(lambda: next(times), iter([10.0, 11.0]).__next__)
    slowdowns = [meter.after_step() for _ in range(2 * MEASURED_STEPS)]
    assert [slowdown for slowdown in slowdowns if slowdown != 1.0] == [pytest.approx(3.0)]


def test_steps_that_take_no_measurable_time_show_no_slowdown() -> None:
    meter = ContentionMeter(lambda: 0.0, lambda: 0.0)
    assert {meter.after_step() for _ in range(2 * MEASURED_STEPS)} == {1.0}


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
@pytest.mark.usefixtures("shared_cpu")
def test_a_run_beside_other_programs_says_what_slows_it_down(
    small: FashionMnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "MEASURED_STEPS", 18)
    slowdowns: list[float] = []

    class Listening(Observer):
        def on_contention(self, slowdown: float) -> None:
            slowdowns.append(slowdown)

    trainer.train(make_config(limit=640, epochs=1), small, Run(tmp_path), Listening())
    assert len(slowdowns) == 1
    assert slowdowns[0] > WARNED_FACTOR


def test_threads_that_wait_for_each_other_soon_sleep(tmp_path: Path) -> None:
    # Threads that spin take the CPU from the thread that they wait for, where another program leaves too few.
    command = [sys.executable, "-m", "hangtag", "train", "lstm", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_DISPLAY_ENV": "verbose"}, timeout=120
    )
    assert "lacks train-images-idx3-ubyte" in done.stderr
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


def test_the_terminal_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(1, shown=True) as observer:
        observer.on_contention(3.14)
    with terminal_observer(1, shown=False) as observer:
        observer.on_contention(9.99)
    text = " ".join(capsys.readouterr().err.split())
    assert "takes 3.1 times as long as it computes" in text
    assert "--threads" in text
    assert "10.0" not in text
