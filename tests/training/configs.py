"""Small runs, and what to compare of two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hangtag.training.observer import Observer, StepProgress
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run


def make_config(
    model: str = "lstm",
    *,
    seed: int = 0,
    limit: int = 96,
    epochs: int = 2,
    learning_rate: float = 1e-3,
    precision: str = "fp32",
) -> RunConfig:
    recipe = Recipe(name="tiny", batch_size=32, epochs=epochs, learning_rate=learning_rate)
    return RunConfig(
        model=model,
        recipe=recipe,
        seed=seed,
        data_digest="of no matter here",
        limit=limit,
        precision=precision,
        threads=1,
        device="cpu",
    )


def begin(run: Run, **changes: object) -> None:
    """Start the run, with make_config's config but for these changes."""
    with run.lock():
        run.start(replace(make_config(), **changes))  # type: ignore[arg-type]


class OnStep(Observer):
    """Calls a function after every step."""

    def __init__(self, do: Callable[[StepProgress], object]) -> None:
        self._do = do

    def on_step(self, at: StepProgress) -> None:
        self._do(at)


def weights(folder: Path, name: str = "best.pt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = Run(folder).load(name)["model"]
    return state


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without the times."""
    rows = [{key: row[key] for key in row if key not in ("seconds", "step_ms")} for row in metrics["epochs"]]
    return metrics | {"epochs": rows}
