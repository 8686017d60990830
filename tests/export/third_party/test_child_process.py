"""A child process that answers, and each way in which it can fail to."""

from pathlib import Path

import pytest

from hangtag.export import child_process


@pytest.mark.usefixtures("started_children")
@pytest.mark.parametrize(
    ("code", "seconds", "answer"),
    [
        ("import json; print('noise'); print(json.dumps({'the last line': 5}))", 60, {"the last line": 5}),
        ("raise SystemExit(3)", 60, "the process ended with exit code 3: it wrote no message"),
        ("def f(): raise ValueError('too many')\nf()", 60, "the process ended with exit code 1: ValueError: too many"),
        ("print('no JSON')", 60, "the process ended with exit code 0: it wrote no message"),
        ("import threading; threading.Event().wait()", 0.2, "there was no answer within 0.2 s"),
        ("import os; os.abort()", 60, "signal 6"),
    ],
)
def test_a_child_answers_or_the_error_describes_how_its_process_ended(
    code: str, seconds: float, answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_module.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    try:
        outcome: object = child_process.run("some_module", tmp_path, seconds)
    except (child_process.ChildFailedError, child_process.ChildAbortedError) as error:
        outcome = str(error)
    assert outcome == answer
