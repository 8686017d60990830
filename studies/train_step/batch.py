"""Trains `lstm` by the study's recipe with batches of 32 and 128, for the accuracy of each."""

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from hangtag.training.catalog import recipe_for
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Dataset
from hangtag.training.loop import train as loop
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from studies import options, results

RESULTS = Path(__file__).with_name("batch.jsonl")
SETTINGS = ((32, 1e-3), (128, 1e-3), (128, 2e-3), (128, 4e-3))
"""Batch size and learning rate of each; the first is the study's own."""


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each setting.")
@click.option("--epochs", type=click.IntRange(1), help="Of each run.  [default: the recipe's ten]")
@click.option("--limit", type=click.IntRange(1), help="Train on the first N images, for quick trials.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")), default="bf16", show_default=True)
@options.OUT
def main(seeds: int, epochs: int | None, limit: int | None, threads: int, precision: str, out: Path | None) -> None:
    """Train lstm with batches of 32 and 128 at several learning rates, and record accuracy and time.

    The settings take turns, one seed each. Needs a machine that does nothing else for the times.
    """
    conditions = results.conditions(
        f"python -m studies train_step batch{options.given()}", {"PyTorch": torch.__version__}
    )
    torch.set_num_threads(threads)
    data = fashion_mnist.load()
    runs: dict[str, results.Line] = {}
    for seed in range(seeds):
        for batch_size, learning_rate in SETTINGS:
            changes: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate}
            recipe = replace(recipe_for("study", "lstm"), **changes | ({"epochs": epochs} if epochs else {}))
            figures = _train(RunConfig("lstm", recipe, seed, data.digest, limit, precision, threads, "cpu"), data)
            name = f"{batch_size} at {learning_rate:g}"
            click.echo(f"batch {name}, seed {seed}: " + ", ".join(f"{key} {x:g}" for key, x in figures.items()))
            line = runs.setdefault(name, {"run": name, **changes} | {key: [] for key in figures})
            for key, figure in figures.items():
                line[key].append(figure)
    lines = [conditions | {"threads": threads, "precision": precision}, *runs.values()]
    options.write(out, RESULTS, lines, complete=not options.given())


def _train(config: RunConfig, data: Dataset) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        metrics = loop.train(config, data, Run(Path(folder, "run")))
    return {
        "validation_accuracy": metrics["summary"]["validation"]["accuracy"],
        "test_accuracy": metrics["summary"]["test"]["accuracy"],
        "epoch_seconds": median(epoch["seconds"] for epoch in metrics["epochs"]),
    }


if __name__ == "__main__":
    main()
