"""A child process that answers, and each way in which it can fail to."""

from pathlib import Path
from typing import Protocol

import pytest

from hangtag.export import child_process

pytestmark = pytest.mark.usefixtures("started_children")


class Run(Protocol):
    def __call__(self, code: str, seconds: float = 60.0) -> dict[str, object]: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs some code as the child's module."""

    def run_code(code: str, seconds: float = 60.0) -> dict[str, object]:
        (tmp_path / "some_module.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return child_process.run("some_module", tmp_path, seconds)

    return run_code


def test_the_last_line_is_the_answer(run: Run) -> None:
    assert run("import sys, json; print('noise'); print(json.dumps({'path': sys.argv[1]}))")["path"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "the process ended with exit code 3: it wrote no message"),
        ("def f(): raise ValueError('too many')\nf()", "the process ended with exit code 1: ValueError: too many"),
        ("print('no JSON')", "the process ended with exit code 0: it wrote no message"),
    ],
)
def test_without_an_answer_the_error_describes_how_the_process_ended(run: Run, code: str, message: str) -> None:
    with pytest.raises(child_process.ChildFailedError) as caught:
        run(code)
    assert str(caught.value) == message


def test_the_error_holds_the_signal(run: Run) -> None:
    with pytest.raises(child_process.ChildAbortedError) as caught:
        run("import os; os.abort()")
    assert caught.value.signal == 6


def test_a_child_that_does_not_end_is_killed(run: Run) -> None:
    with pytest.raises(child_process.ChildFailedError, match=r"there was no answer within 0\.2 s"):
        run("import threading; threading.Event().wait()", 0.2)
