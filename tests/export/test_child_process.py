"""Questions in a child process: the answer, and each way in which there is none."""

from pathlib import Path
from typing import Protocol

import pytest

from hangtag.export import child_process as child


class Ask(Protocol):
    def __call__(self, code: str, seconds: float = 60.0) -> dict[str, object]: ...


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs some code as the child's module."""

    def run(code: str, seconds: float = 60.0) -> dict[str, object]:
        (tmp_path / "asked.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return child.ask("asked", tmp_path, seconds)

    return run


def test_the_last_line_is_the_answer(ask: Ask) -> None:
    assert ask("import sys, json; print('noise'); print(json.dumps({'path': sys.argv[1]}))")["path"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "the process ended with exit code 3: it said nothing"),
        ("def f(): raise ValueError('too many')\nf()", "the process ended with exit code 1: ValueError: too many"),
        ("print('no JSON')", "the process ended with exit code 0: it said nothing"),
    ],
)
def test_without_an_answer_it_says_how_the_process_ended(ask: Ask, code: str, said: str) -> None:
    with pytest.raises(child.ChildFailedError) as caught:
        ask(code)
    assert str(caught.value) == said


def test_a_signal_is_told(ask: Ask) -> None:
    with pytest.raises(child.ChildEndedError) as caught:
        ask("import os; os.abort()")
    assert caught.value.signal == 6


def test_one_that_does_not_end_is_given_up(ask: Ask) -> None:
    with pytest.raises(child.ChildFailedError, match=r"there was no answer within 0\.2 s"):
        ask("import threading; threading.Event().wait()", 0.2)
