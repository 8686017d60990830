"""Shared by the tests: make runs to export, and list the contents of a folder."""

import hashlib
from pathlib import Path

from hangtag.training.data.fashion_mnist import DIGEST, FashionMnist, Split
from hangtag.training.loop import trainer
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run

EPOCHS = 2


def train(folder: Path, model: str, garments: Split, images: int = 32, epochs: int = EPOCHS) -> Run:
    """Train a run quickly by the real trainer: fresh weights, two steps by default, all metrics."""
    few = garments.first(images)
    run = Run(folder)
    trainer.train(make_config(model, images, epochs), FashionMnist(few, few, garments, source="test images"), run)
    return run


def start(folder: Path, model: str) -> Run:
    """A run that was started and never finished."""
    folder.mkdir(parents=True)
    run = Run(folder)
    run.start(make_config(model))
    return run


def make_config(model: str, limit: int = 32, epochs: int = EPOCHS) -> RunConfig:
    return RunConfig(
        model=model,
        recipe=Recipe(name="tiny", batch_size=32, epochs=epochs, learning_rate=1e-3),
        seed=3,
        data_digest=DIGEST,
        limit=limit,
        precision="fp32",
        threads=1,
        device="cpu",
    )


def contents(folder: Path) -> dict[str, str]:
    """Every path under the folder: a file's digest, or "folder"."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }
