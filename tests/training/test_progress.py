"""A run seen from the terminal: what is shown, and what Ctrl-C does."""

import signal

import pytest

from hangtag.training.observer import StepProgress
from hangtag.training.progress import terminal_observer


def test_a_bar_that_never_moves_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(3, shown=True):
        pass
    assert capsys.readouterr() == ("", "")


def test_each_kind_of_work_has_its_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
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


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_observer(3, shown=False) as observer:
        observer.on_teacher_logits(500, 1000)
        observer.on_step(StepProgress(1, 5, 5, 0.25, None))
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
