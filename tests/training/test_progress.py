"""A run seen from the terminal: what is shown, and what Ctrl-C does."""

import signal

import pytest

from hangtag.training.observer import StepProgress
from hangtag.training.progress import LINE_INTERVAL, TerminalObserver, terminal_observer


def test_a_bar_that_never_moves_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(3, shown=True):
        pass
    assert capsys.readouterr() == ("", "")


def test_each_kind_of_work_has_its_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich this is a terminal
    with terminal_observer(3, shown=True) as observer:
        observer.on_teacher_logits(500, 1000)
        observer.on_teacher_logits(1000, 1000)
        observer.on_step(StepProgress(2, 5, 5, 0.25, {"validation_accuracy": 0.5}))
    shown = capsys.readouterr().err
    assert "teacher's logits" in shown
    assert "1000/1000" in shown
    assert "epoch 2/3" in shown
    assert "10/15" in shown
    assert "loss 0.250" in shown


def test_a_log_gets_a_line_for_each_epoch_and_for_each_minute_within_one(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    observer = TerminalObserver(3, shown=True, clock=lambda: now[0])
    observer.on_teacher_logits(1_000, 110_000)
    now[0] = LINE_INTERVAL
    observer.on_teacher_logits(55_000, 110_000)
    observer.on_teacher_logits(56_000, 110_000)
    observer.on_step(StepProgress(1, 430, 430, 0.3, None))
    observer.on_epoch({"epoch": 1, "train_loss": 0.25, "seconds": 12.3, "validation_accuracy": 0.9})
    now[0] = 2 * LINE_INTERVAL
    observer.on_step(StepProgress(2, 10, 430, 0.2, {"validation_accuracy": 0.9}))
    assert capsys.readouterr() == (
        "",
        "teacher's logits: 55,000 of 110,000 images\n"
        "epoch 1/3: loss 0.250, validation accuracy 90.00%, 12 s\n"
        "epoch 2/3: 440 of 1,290 steps, loss 0.200, validation accuracy 90.00%\n",
    )


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(3, shown=False) as observer:
        observer.on_teacher_logits(500, 1000)
        observer.on_step(StepProgress(1, 5, 5, 0.25, None))
        observer.on_epoch({"epoch": 1, "train_loss": 0.25, "seconds": 12.3, "validation_accuracy": 0.9})
    assert capsys.readouterr() == ("", "")


def test_the_first_ctrl_c_requests_a_stop_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with terminal_observer(3, shown=False) as observer:
        observer.raise_if_stopped()
        signal.raise_signal(signal.SIGINT)
        assert observer.stop_requested()
        with pytest.raises(KeyboardInterrupt):
            observer.raise_if_stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
