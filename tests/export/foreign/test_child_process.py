"""A child process that answers, and each way in which it can fail to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hangtag.export import child_process

pytestmark = pytest.mark.usefixtures("started_children")

Run = Callable[[str, float], dict[str, object]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs some code as the child's module, for so many seconds at most."""

    def run_code(code: str, seconds: float) -> dict[str, object]:
        (tmp_path / "some_module.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return child_process.run("some_module", tmp_path, seconds)

    return run_code


def test_the_last_line_is_the_answer(run: Run, tmp_path: Path) -> None:
    code = "import sys, json; print('noise'); print(json.dumps({'path': sys.argv[1]}))"
    assert run(code, 60) == {"path": str(tmp_path)}


@pytest.mark.parametrize(
    ("code", "seconds", "message"),
    [
        ("raise SystemExit(3)", 60, "the process ended with exit code 3: it wrote no message"),
        ("def f(): raise ValueError('too many')\nf()", 60, "the process ended with exit code 1: ValueError: too many"),
        ("print('no JSON')", 60, "the process ended with exit code 0: it wrote no message"),
        ("import threading; threading.Event().wait()", 0.2, "there was no answer within 0.2 s"),
    ],
)
def test_without_an_answer_the_error_describes_how_the_process_ended(
    run: Run, code: str, seconds: float, message: str
) -> None:
    with pytest.raises(child_process.ChildFailedError) as caught:
        run(code, seconds)
    assert str(caught.value) == message


def test_the_error_holds_the_signal(run: Run) -> None:
    with pytest.raises(child_process.ChildAbortedError) as caught:
        run("import os; os.abort()", 60)
    assert caught.value.signal == 6
