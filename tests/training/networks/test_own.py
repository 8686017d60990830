"""Trains a user's own networks, named by package.module:callable, and refuses unsuitable ones."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.kit import own_pictures
from tests.kit.command import invoke, refusal
from tests.training.small_runs import read, weights

pytestmark = pytest.mark.slow

NETWORKS = '''
import torch
from torch import nn

class Linear(nn.Module):
    """With normalisations and dropout of its own."""
    def __init__(self, labels, image):
        super().__init__()
        values = image.channels * image.height * image.width
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(values, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Linear(8, labels)
        )
        assert image.mean != (0.0,)

    def forward(self, pixels):
        assert not self.training or self.layers[3].p in (0.4, 0.1)
        assert pixels.dtype == torch.float32 and abs(float(pixels.mean())) < 3
        return self.layers(pixels)

class Guess(nn.Module):
    """Ignores the pixels: it learns how often each label is."""
    def __init__(self, labels, image):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, labels))

    def forward(self, pixels):
        return self.bias + 0 * pixels.mean(dim=(1, 2, 3))[:, None]

class Threshold(nn.Module):
    """Takes all pictures for the first label, and after the first step the brighter half of them for the second."""
    def __init__(self, labels, image):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, pixels):
        if self.training:
            self.steps += 1
        bright = pixels.mean(dim=(1, 2, 3)) * (self.steps > 1) - 0.001 + 0 * self.nothing
        return torch.stack([-bright, bright], dim=1)

class Wide(Linear):
    def forward(self, pixels):
        return super().forward(pixels).repeat(1, 2)

class Softmax(Linear):
    def forward(self, pixels):
        return super().forward(pixels).softmax(1)

class Tuple(Linear):
    def forward(self, pixels):
        return (super().forward(pixels),)

class Flat(Linear):
    def forward(self, pixels):
        return self.layers(pixels.view(1, 7))

class Infinite(Linear):
    def forward(self, pixels):
        return super().forward(pixels) / 0

class Company(Linear):
    def forward(self, pixels):
        return super().forward(pixels - pixels.mean(dim=0))

def fails(labels, image):
    raise RuntimeError("no such weights")

def function(labels, image):
    return lambda pixels: pixels

def fixed(labels, image):
    return nn.Flatten()

'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's pictures, and a module with networks in the current folder."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return f"folder:{own_pictures.folder(tmp_path / 'photos', {'cats': 20, 'dogs': 20})}"


def arguments(network: str, source: str, *options: object, out: str = "run") -> list[object]:
    return ["train", network, "--data", source, "--threads", 1, "--device", "cpu", "--out", out, *options]


def train(network: str, source: str, *options: object) -> dict[str, Any]:
    """Train a network of the module with the command, and return its metrics.json."""
    invoke(*arguments(f"own_networks:{network}", source, *options, "--restart"))
    return read(Path("run"))


def test_an_own_network_is_trained_with_its_own_normalisations_and_dropout(source: str) -> None:
    """32 images make one batch, because a batch of one image could not be normalised."""
    summary = train("Linear", source, "--set", "batch_size=31", "--set", "learning_rate=0.02")["summary"]  # of 32
    assert summary["test"]["accuracy"] == 1
    assert "layers.2.running_mean" in weights(Path("run"))
    config = read(Path("run"), "config.json")
    assert config["model"] == "own_networks:Linear"
    assert (config["recipe"]["batch_norm"], config["recipe"]["dropout"]) == (False, None)
    train("Linear", source, "--epochs", 1, "--set", "dropout=0.1")
    assert read(Path("run"), "config.json")["recipe"]["dropout"] == 0.1


def test_a_network_that_cannot_be_exported_is_named(source: str) -> None:
    """Linear cannot be exported, because its assertion converts pixels to a Python number."""
    for network, in_vain in (("Linear", 1), ("Guess", 0)):
        printed = invoke(*arguments(f"own_networks:{network}", source, "--epochs", 1, out=network)).stderr
        assert printed.count(f"own_networks:{network} may not be worth training: PyTorch could not export") == in_vain


def test_a_run_without_a_folder_is_named_after_the_callable(source: str) -> None:
    printed = invoke(*arguments("own_networks:Guess", source, "--epochs", 1)[:-4], "--limit", 3).stderr
    assert re.search(r"validation accuracy \S+% of 3 images, test accuracy \S+% of 4 images, ", printed)
    assert "run: runs/guess-photos-pictures-seed0   next: hangtag export " in printed
    assert invoke("runs", "show", "guess").stdout.split()[1] == "runs/guess-photos-pictures-seed0"


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("own_gone:build", "'own_gone'). Name a network of your own as MODULE:CALLABLE, such as nets:build for "),
        ("own_networks:gone", "own_networks has no callable 'gone'; write package.module:callable."),
        ("own_networks:fails", "own_networks:fails cannot be built (RuntimeError: no such weights). A callable of"),
        ("own_networks:function", "own_networks:function returned function; it must return a torch.nn.Module."),
        ("own_networks:fixed", "own_networks:fixed returned a network without parameters, which cannot learn."),
        (
            "own_networks:Wide",
            "returned torch.float32 [3, 4] for 3 images; it must return logits, ",
        ),
        ("own_networks:Tuple", "own_networks:Tuple returned tuple for 3 images"),
        ("own_networks:Company", "own_networks:Company computes different logits for an image in a batch and "),
        ("own_networks:Infinite", "own_networks:Infinite returned NaN or infinite logits for images of noise "),
        ("own_networks:Softmax", "own_networks:Softmax seems to end in a softmax: its outputs are from 0 to 1 and"),
        ("own_networks:Flat", "own_networks:Flat fails on pixels of the shape [3, 1, 9, 8], [batch, channels, "),
        ("timm:resnet18", "timm:resnet18 needs the package timm. Install it with: pip install timm"),
    ],
)
def test_networks_that_cannot_be_used_are_refused(source: str, network: str, expected: str) -> None:
    assert expected in refusal(*arguments(network, source))


def test_hyperparameters_that_do_not_suit_the_network_or_the_pictures_are_refused(source: str) -> None:
    message = refusal(*arguments("own_networks:Linear", source, "--set", "batch_norm=true"), exit_code=2)
    assert message == "--set batch_norm=true: hangtag does not add batch normalisation to own_networks:Linear."
    message = refusal(*arguments("own_networks:Guess", source, "--set", "dropout=0.9"))
    assert message == "--set dropout=0.9: own_networks:Guess has no nn.Dropout layers."
    message = refusal(*arguments("cnn", source, "--set", "shift=8"))
    assert message == "--set shift=8: it must be smaller than the pictures' shorter edge, 8."


# Class weights, and the choice of the best epoch.


def test_balanced_classes_count_alike_however_many_pictures_they_have(source: str) -> None:
    own_pictures.folder(Path("photos/cats"), {"more": 140}, first=100)
    steps = ("--epochs", 12, "--set", "batch_size=500", "--set", "learning_rate=0.1")

    def preference() -> float:
        """Return the logit of the class with more pictures minus the other logit. Every picture has the same logits."""
        bias = weights(Path("run"))["bias"][0]
        return float(bias[0] - bias[1])

    train("Guess", source, *steps)
    assert preference() > 0.3
    assert train("Guess", source, *steps, "--balance")["summary"]["validation"]["loss"] > 0.69  # log(2)
    assert abs(preference()) < 0.01


def test_the_best_epoch_is_that_of_the_chosen_figure(source: str) -> None:
    own_pictures.folder(Path("photos/cats"), {"dark": 70, "bright": 70}, first=100)  # bright ones are taken for dogs
    steps = ("--epochs", 2, "--set", "batch_size=500")
    by_accuracy = train("Threshold", source, *steps)
    first, second = by_accuracy["epochs"]
    assert first["validation_accuracy"] > second["validation_accuracy"]
    assert first["validation_balanced_accuracy"] == 0.5 < second["validation_balanced_accuracy"]
    assert by_accuracy["summary"]["best_epoch"] == 1
    balanced = train("Threshold", source, *steps, "--select", "balanced_accuracy")["summary"]
    assert balanced["best_epoch"] == 2
    assert balanced["peak_validation_balanced_accuracy"] == second["validation_balanced_accuracy"]
    *_, last = invoke("runs", "show", "run").stdout.splitlines()
    assert (last.split()[0], last.split()[-1]) == ("2", "best")
