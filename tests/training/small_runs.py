"""Starts small training runs, by the command or by the training loop, and compares two runs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch.nn.modules.module import register_module_forward_hook

from hangtag.training.catalog import build
from hangtag.training.loop import train as loop
from hangtag.training.progress import Observer
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from tests.kit.command import invoke
from tests.kit.forkserver import Forked
from tests.kit.garments import Dataset, Images, Split, few
from tests.kit.waiting import until

SOURCES = ("training", "hangtag")
"""The sources that determine the outcome of a run, for tests/kit/once.py."""
EPOCHS = 4
TRAINED = ("train", "lstm", *f"--limit 640 --epochs {EPOCHS} --threads 1 --device cpu".split())
"""The command for a run of about two seconds. The caller adds --out with the run's folder."""


def command(model: str, *options: object, limit: int = 64, epochs: int = 1) -> list[str]:
    """The command for a run on few images. The caller adds --out with the run's folder."""
    usual = ("--limit", limit, "--epochs", epochs, "--threads", 1, "--device", "cpu")
    return ["train", model, *map(str, usual), *map(str, options)]


def train(model: str, out: Path, *options: object, limit: int = 64, epochs: int = 1) -> Result:
    """Run the training command on a few images. The command must succeed."""
    return invoke(*command(model, *options, limit=limit, epochs=epochs), "--out", out)


def wait_for_file(path: Path, process: Forked) -> None:
    """Wait until a process has written a file. The process must still be running."""
    until(lambda: path.is_file() or process.poll() is not None, 120)
    assert process.poll() is None, process.communicate()[1]


class DiedError(BaseException):
    """Ends a run like a kill, because no handler catches this exception."""


@contextmanager
def dying(writes: int) -> Iterator[None]:
    """Make a run in this process die after it has replaced this many files, just before it replaces the next one."""
    os_replace, left = os.replace, writes

    def replace_or_die(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise DiedError
        left -= 1
        os_replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        yield


def config(
    model: str = "lstm", *, seed: int = 0, limit: int = 96, epochs: int = 2, learning_rate: float = 1e-3
) -> RunConfig:
    """The config of a run whose recipe is not one of the product's."""
    recipe = Recipe(name="tiny", batch_size=32, epochs=epochs, learning_rate=learning_rate)
    return RunConfig(model, recipe, seed, "of no matter here", limit, precision="fp32", threads=1, device="cpu")


def learn(settings: RunConfig, data: Any, folder: Path, observer: Observer | None = None, **more: Any) -> None:
    """Train a run with these settings and this data. ``more`` are arguments of the training loop."""
    loop.train(settings, data, Run(folder), observer or Observer(), **more)


def training_on(images: Images) -> Dataset:
    """Return the data set of garments, but with these training images [n, 28, 28], all of one class."""
    return replace(few(), train=Split(images, np.zeros(len(images), np.uint8)))


@contextmanager
def watching(answer: Callable[[Images], Any] | None = None) -> Iterator[list[Images]]:
    """Record each batch [n, 28, 28] on which a network is trained within the `with` block.

    answer: A function whose result replaces the logits of the network in training; None keeps the network's logits.
    """
    seen: list[Images] = []

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor | None:
        if not module.training or not type(module).__module__.startswith("hangtag."):
            return None
        seen.append((inputs[0].squeeze(1) * 255).round().byte().numpy())  # pixels [n, 1, 28, 28]
        return None if answer is None else logits * 0 + torch.from_numpy(answer(seen[-1]))

    hook = register_module_forward_hook(watch)  # type: ignore[arg-type]  # the hook may return other logits
    try:
        yield seen
    finally:
        hook.remove()


class OnStep(Observer):
    """Calls a function after every step, with the epoch, the step and the number of steps."""

    def __init__(self, do: Callable[[int, int, int], object]) -> None:
        self._do = do

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._do(epoch, step, steps)


@dataclass(frozen=True)
class Finished:
    """A run that the command trained to its end, and the command's output. Tests must not change this run."""

    folder: Path
    stdout: str
    stderr: str


# The contents of a run's folder.


def read(folder: Path, name: str = "metrics.json") -> dict[str, Any]:
    """The content of metrics.json or of config.json."""
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def state(folder: Path, name: str) -> dict[str, Any]:
    """The content of a file that PyTorch wrote."""
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return content


def weights(folder: Path, name: str = "best.pt") -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = state(folder, name)["model"]
    return saved


def logits(folder: Path, images: Images, model: str = "lstm") -> torch.Tensor:
    """Load the run's best weights into a network, and return its logits [n, 10] for images [n, 28, 28]."""
    network = build(model).eval()
    network.load_state_dict(weights(folder))
    with torch.no_grad():
        answers: torch.Tensor = network(torch.tensor(images).unsqueeze(1) / 255)
    return answers


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def figures(folder: Path) -> dict[str, Any]:
    """The contents of metrics.json without the times."""
    metrics = read(folder)
    rows = [{key: row[key] for key in row if key not in ("seconds", "step_ms")} for row in metrics["epochs"]]
    return metrics | {"epochs": rows}


def assert_same_outcome(folder: Path, unbroken: Path) -> None:
    """Require that metrics and weights are equal, and that no file of an unfinished run is left."""
    assert figures(folder) == figures(unbroken)
    assert same_weights(weights(folder), weights(unbroken))
    assert not list(folder.glob("checkpoint.pt")) + list(folder.glob("teacher.pt"))
