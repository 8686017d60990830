"""A run in a terminal: its progress bars, Ctrl-C, and its use of the machine."""

import signal
from pathlib import Path

import pytest

from hangtag.training.progress import LINE_INTERVAL, TerminalObserver
from tests.kit import shipped
from tests.kit.command import hangtag, python
from tests.training.small_runs import train

pytestmark = pytest.mark.slow


def test_in_a_terminal_each_kind_of_work_has_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes Rich believe that this is a terminal
    options = ("--recipe", "best", "--teacher", shipped.latest("lstm"))
    shown = train("lstm", tmp_path, *options, limit=600, epochs=2).stderr  # each epoch has 5 steps
    logits_bar, steps_bar = shown.partition("\x1b[?25h")[0].splitlines()[-2:]  # the last state of the two bars
    for bar, parts in ((logits_bar, ("teacher's logits", "1200/1200")), (steps_bar, ("epoch 2/2", "10/10", "loss "))):
        assert all(part in bar for part in parts), bar
    assert "epoch 1/2: " not in shown  # only a log gets this line


def test_a_log_gets_a_line_for_each_epoch_and_for_each_minute_within_one(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    observer = TerminalObserver(3, shown=True, select="balanced_accuracy", clock=lambda: now[0])
    observer.on_teacher_logits(1_000, 110_000)
    now[0] = LINE_INTERVAL
    observer.on_teacher_logits(55_000, 110_000)
    observer.on_teacher_logits(56_000, 110_000)
    observer.on_step(1, 430, 430, 0.3)
    figures = {"validation_accuracy": 0.9, "validation_balanced_accuracy": 0.8}
    observer.on_epoch({"epoch": 1, "train_loss": 0.25, "seconds": 12.3, **figures})
    now[0] = 2 * LINE_INTERVAL
    observer.on_step(2, 10, 430, 0.2)
    assert capsys.readouterr() == (
        "",
        "teacher's logits: 55,000 of 110,000 images\n"
        "epoch 1/3: loss 0.250, validation accuracy 90.00%, validation balanced accuracy 80.00%, 12 s\n"
        "epoch 2/3: 440 of 1,290 steps, loss 0.200, validation accuracy 90.00%, validation balanced accuracy 80.00%\n",
    )


def test_the_first_ctrl_c_requests_a_stop_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with TerminalObserver(3, shown=False) as observer:
        observer.raise_if_stopped()
        signal.raise_signal(signal.SIGINT)
        assert observer.stop_requested()
        with pytest.raises(KeyboardInterrupt):
            observer.raise_if_stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_threads_that_wait_for_each_other_soon_sleep() -> None:
    # If too few CPUs are free, threads that spin take the CPU from the thread for which they wait.
    done = hangtag("train", "lstm", "--data-dir", "/nowhere", script=True, OMP_DISPLAY_ENV="verbose")
    assert "lacks train-images-idx3-ubyte" in done.stderr
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


_PAGES_OF_A_TENSOR = """
import resource
import torch
from hangtag.cli import main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
try:
    main(["train", "lstm", "--data-dir", "/nowhere"])
except SystemExit:
    pass
faults()
print(before, faults())
"""


def test_a_process_that_trains_maps_no_memory_for_each_tensor() -> None:
    before, after = map(int, python(_PAGES_OF_A_TENSOR).stdout.split()[-2:])
    assert before > 10  # 64 MB are 16,000 pages, or 32 huge pages
    assert after < before / 4
