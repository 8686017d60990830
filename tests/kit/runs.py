"""Makes runs, finished ones and others, quickly by the real trainer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def finished(folder: Path, model: str, state: Mapping[str, Any]) -> Run:
    """A run that is marked as finished, whatever its weights are."""
    run = start(folder, model)
    run.save("best.pt", {"model": state, "epoch": 1})
    epoch = {"epoch": 1, "validation_accuracy": 0.5}
    summary = {"parameters": 0, "best_epoch": 1, "validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    run.write_metrics({"epochs": [epoch], "summary": summary})
    return run
