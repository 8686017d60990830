"""These commands work without PyTorch. The other commands fail with an error, which is tested in tests/hangtag."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kit import networks
from tests.kit.command import ROOT, hangtag

pytestmark = pytest.mark.slow

Run = Callable[..., str]
HIDDEN = ("torch", "torchvision")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command, and returns its output. Neither the command nor its child processes can import PyTorch."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({HIDDEN!r}))\n")
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    return lambda *arguments: hangtag(*arguments, script=True, exit_codes=[0], PYTHONPATH=path).stdout


def test_anybodys_file_is_converted_and_published(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(networks.robust().SerializeToString())
    np.savez(tmp_path / "samples.npz", x=networks.samples(200))
    theirs = ("theirs.onnx", "--name", "theirs", "--calibration", "samples.npz")
    printed = run("import", *theirs, "--precision", "int8", "--agree-at-least", "80")
    assert printed.startswith("published models/theirs-int8/1\n")
