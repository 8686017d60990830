"""``hangtag export`` of users' own networks, including networks that cannot be exported or whose code has changed."""

import logging
import sys
from pathlib import Path

import pytest

from tests.kit import own_pictures
from tests.kit.command import invoke, refusal

pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, labels, image):
        super().__init__()
        self.linear = nn.Linear(image.channels * image.height * image.width, labels)

    def forward(self, pixels):
        return self.linear(pixels.flatten(1))
"""
LINE = "return self.linear(pixels.flatten(1))"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trains a network on a user's own pictures in the current folder, and returns the file with the network's code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "nets.py"
    module.write_text(NETWORK)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    own_pictures.folder(tmp_path / "photos", {"cats": 60, "dogs": 60})
    train("run", 0.02)
    return module


def train(run: str, learning_rate: float, *more: object) -> None:
    options = ("--set", f"learning_rate={learning_rate}", "--epochs", 15, "--threads", 1, "--device", "cpu")
    invoke("train", "nets:Network", "--data", "folder:photos", *options, "--out", run, *more)


def change(module: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the last line of the network's code. The next command imports the changed code."""
    module.write_text(NETWORK.replace(LINE, line))
    monkeypatch.delitem(sys.modules, "nets", raising=False)


def test_a_network_whose_code_has_changed_since_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(trained, f"{LINE} * -1", monkeypatch)
    assert (
        "agreement: the network classifies 0.00% of 12 test images correctly, but the run recorded 100.00% of 12, so "
        "the network's code or the pictures have changed since training. Restore them, or train the network again. If "
        "neither has changed, the training on a GPU or in bf16 rounded differently. In this case, train for one more "
        "epoch on this CPU: "
    ) in refusal("export", "run")
    assert not list(trained.parent.glob("models/*"))
    change(trained, LINE, monkeypatch)
    assert "test accuracy 100.00% of 12 images" in invoke("export", "run").stdout


@pytest.mark.usefixtures("trained")
def test_the_version_that_serves_is_measured_on_the_pictures_of_the_new_run() -> None:
    """Pictures on which the served version was trained are left out, unless fewer than half would remain."""
    invoke("export", "run")
    train("worse", 1e-9, "--split-seed", 1)
    train("larger-test", 0.02, "--validation-share", 0.05, "--test-share", 0.15)
    before = "of the run's test pictures, and version 1, which is served now, has 100.00%"
    assert f"% on 12 {before}. The new version is " in refusal("export", "worse")
    published = invoke("export", "larger-test").stdout
    assert "test accuracy 100.00% of 18 images" in published
    assert f"test accuracy 100.00% on 12 {before}\n" in published


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "return self.linear(nn.functional.adaptive_max_pool2d(pixels, 3).repeat(1, 8, 1, 1).flatten(1))",
            "nets:Network cannot be exported to ONNX. PyTorch's exporter: No ONNX function found for ",
        ),
        (
            f"pixels = pixels * 2 if float(pixels.sum()) > 1e9 else pixels; {LINE}",
            "nets:Network cannot be exported to ONNX. ",
        ),
        (
            "return torch.stack([self.linear(pixels[k].flatten()) for k in range(int(pixels.shape[0]))])",
            "The batch size must stay free: ",
        ),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_in_one_sentence(
    trained: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, line: str, expected: str
) -> None:
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)
    caplog.set_level(logging.WARNING)
    change(trained, line, monkeypatch)
    assert expected in refusal("export", "run")
    assert len(invoke("export", "run", exit_code=1).stderr.splitlines()) < 5
    assert not caplog.records


def test_a_csv_file_is_found_again_by_the_published_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(str(file), file.parent.name) for file in sorted((tmp_path / "photos").glob("*/*"))]
    listed = own_pictures.csv(tmp_path / "l.csv", rows)
    invoke("train", "nets:Network", "--data", f"csv:{listed}", "--epochs", 1, "--threads", 1, "--out", "listed")
    invoke("export", "listed")
    assert "not checked" not in invoke("models", "verify", "network").stdout
