"""The child process that runs an ONNX file: its answer, and every way in which it can fail."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hangtag.export import child_process
from hangtag.export.errors import GateError
from tests.kit.command import ROOT


@pytest.mark.usefixtures("started_children")
@pytest.mark.parametrize(
    ("code", "seconds", "answer"),
    [
        ("print('noise'); return {'the answer': number}", 60, {"the answer": 5}),
        ("raise SystemExit(3)", 60, "the process ended with exit code 3."),
        ("raise ValueError('too many')", 60, "ValueError: too many."),
        ("import os; os._exit(0)", 60, "the process ended with exit code 0."),
        ("import threading; threading.Event().wait()", 0.2, "there was no answer within 0.2 s."),
        ("import os; os.abort()", 60, "x.onnx ended the process that worked on it (signal 6)."),
    ],
)
def test_a_child_answers_or_the_error_describes_how_its_process_ended(
    code: str, seconds: float, answer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_module.py").write_text(f"def work(number):\n    {code}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_module", raising=False)
    work = importlib.import_module("some_module").work
    try:
        outcome: object = child_process.run(work, 5, shown_as=Path("x.onnx"), check="check", seconds=seconds)
    except GateError as error:
        outcome = error.reason.removeprefix("working on x.onnx failed: ")
    assert outcome == answer


@pytest.mark.usefixtures("started_children")
def test_ctrl_c_may_come_while_the_process_starts() -> None:
    class Interrupting(type(Path())):  # type: ignore[misc]
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child_process.run(len, "", shown_as=Interrupting("x.onnx"), check="check")
