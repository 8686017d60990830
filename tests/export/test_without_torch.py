"""What works where PyTorch is not installed, and which extra an error names for what does not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kit import networks
from tests.kit.shipped import MODELS, latest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = "from hangtag.cli import main; main()"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python code with arguments, in a process that cannot import some modules, nor can its children."""

    def run_code(code: str, *arguments: object, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\n")
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    return run_code


TORCH = ("torch", "torchvision", "torchmetrics")


def test_anybodys_file_is_converted_and_published(run: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(networks.robust().SerializeToString())
    np.savez(tmp_path / "samples.npz", x=networks.samples(200))
    process = run(
        COMMAND, "export", "--onnx", "theirs.onnx", "--name", "theirs", "--precision", "int8", "--calibration",
        "samples.npz", "--agree-at-least", "80", without=TORCH,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("published models/theirs/1\n")
    assert (tmp_path / "reports/export/theirs-1.html").is_file()


def test_another_precision_is_made_of_a_shipped_file(run: Run) -> None:
    process = run(COMMAND, "export", "--onnx", latest("lstm"), "--precision", "int8", "--timing", "none", without=TORCH)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("published models/lstm-int8/1\n")


def test_a_shipped_model_is_verified(run: Run) -> None:
    process = run(COMMAND, "models", "verify", "lstm", "--models", MODELS, without=TORCH)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "holds" in process.stdout


@pytest.mark.parametrize(
    ("without", "arguments", "messages"),
    [
        (TORCH, ["lstm"], ["'hangtag export RUN' needs the Python module 'torch'", "pip install '.[train]'"]),
        (
            ("onnx",),
            ["--onnx", "x.onnx", "--name", "x"],
            ["'hangtag export' needs the Python module 'onnx'", "pip install '.[export]'"],
        ),
        (("onnxruntime",), ["--onnx", "x.onnx", "--name", "x"], ["pip install '.["]),
    ],
)
def test_the_error_names_the_extra_that_brings_what_is_missing(
    run: Run, without: tuple[str, ...], arguments: list[str], messages: list[str]
) -> None:
    process = run(COMMAND, "export", *arguments, without=without)
    assert process.returncode == 1
    for message in messages:
        assert message in process.stderr
