"""The training loop: one recipe, one network, and checkpoints from which a killed run goes on unharmed."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data import FashionMnist, Images, Split
from training.errors import DivergedError, RunMismatchError
from training.metrics import evaluate
from training.models import build, parameter_count
from training.run import TRAIN_ANEW, Run, RunConfig

AFTER_DIVERGENCE = "What earlier epochs reached is kept; try a lower learning rate or another seed."


@dataclass(frozen=True)
class Progress:
    """Reported after every step: where the run stands, and the last finished epoch's figures."""

    epoch: int
    step: int
    steps: int
    loss: float
    last_epoch: dict[str, float] | None


def train(
    config: RunConfig, data: FashionMnist, run: Run, report: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Train to the end of the recipe and return the metrics, which also lie in the run's folder.

    A folder that holds this run's checkpoint is continued from there; the outcome is the same as without the break,
    bit for bit on one machine. Raises RunMismatchError for a folder of another run, or one that another process trains
    in, and DivergedError for a loss that is not finite.
    """
    with run.lock():
        return _train(config, data, run, report)


def _train(config: RunConfig, data: FashionMnist, run: Run, report: Callable[[Progress], None]) -> dict[str, Any]:
    run.start(config)
    metrics = run.read_metrics()
    if "summary" in metrics:
        return metrics
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    recipe = config.recipe
    # channels_last is how convolutions are fastest on CPUs and GPUs alike; the numbers stay the same.
    model = build(config.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon)
    rows: list[dict[str, float]] = []
    if run.has("checkpoint.pt"):
        rows = _resume(run, model, optimizer, device)

    train_split = data.train.first(config.limit)
    validation = data.validation.first(config.limit)
    pixels, classes = _tensors(train_split, device)
    for epoch in range(len(rows), recipe.epochs):
        last = rows[-1] if rows else None
        row = _train_epoch(model, optimizer, pixels, classes, config, epoch, report, last)
        logits = predict(model, validation.images)
        if not np.isfinite(logits).all():  # the epoch's last step went wrong: no later loss would show it
            raise DivergedError(f"the network's outputs are not finite after epoch {epoch + 1}. {AFTER_DIVERGENCE}")
        outcome = evaluate(logits, validation.classes)
        row |= {"validation_loss": outcome.loss, "validation_accuracy": outcome.accuracy}
        if row["validation_accuracy"] > max((past["validation_accuracy"] for past in rows), default=-1.0):
            run.save("best.pt", {"model": model.state_dict(), "epoch": epoch + 1})
        rows.append(row)
        checkpoint: dict[str, Any] = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "rows": rows,
        }
        if device.type == "cuda":
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state()
        run.save("checkpoint.pt", checkpoint)
        run.write_metrics({"epochs": rows})

    metrics = {"epochs": rows, "summary": _summary(run, model, rows, validation, data.test)}
    run.write_metrics(metrics)
    run.drop_checkpoint()
    return metrics


def predict(model: nn.Module, images: Images, batch_size: int = 500) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of uint8 images [n, 28, 28], with the model in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        batches = [
            model(normalise(torch.tensor(images[start : start + batch_size], device=device))).cpu()
            for start in range(0, len(images), batch_size)
        ]
    logits: npt.NDArray[np.float32] = torch.cat(batches).numpy()
    return logits


def normalise(images: Tensor) -> Tensor:
    """Pixels 0..255 of any dtype to floats in [0, 1]: the only preprocessing there is."""
    return images.to(torch.float32) / 255


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    classes: Tensor,
    config: RunConfig,
    epoch: int,
    report: Callable[[Progress], None],
    last_epoch: dict[str, float] | None,
) -> dict[str, float]:
    model.train()
    started = time.perf_counter()
    order = torch.split(torch.randperm(len(classes)), config.recipe.batch_size)
    loss_sum, correct = 0.0, 0
    for step, indices in enumerate(order):
        batch, target = images[indices], classes[indices]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(normalise(batch)).float()
        loss = functional.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        value = loss.item()
        if not np.isfinite(value):
            raise DivergedError(
                f"the loss became {value} in epoch {epoch + 1}, step {step + 1} of {len(order)}. {AFTER_DIVERGENCE}"
            )
        loss_sum += value * len(indices)
        correct += int((logits.argmax(dim=1) == target).sum())
        report(Progress(epoch + 1, step + 1, len(order), value, last_epoch))
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch + 1,
        "train_loss": loss_sum / len(classes),
        "train_accuracy": correct / len(classes),
        "seconds": round(seconds, 3),
        "step_ms": round(seconds / len(order) * 1000, 4),
    }


def _resume(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> list[dict[str, float]]:
    """Put everything back to where the last checkpoint left it, and return its rows."""
    run.load("best.pt")  # needed at the end: a broken one is reported now, not hours later
    state = run.load("checkpoint.pt")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"])
        rows: list[dict[str, float]] = state["rows"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunMismatchError(
            f"{run.folder / 'checkpoint.pt'} is not a checkpoint of this run. {TRAIN_ANEW}"
        ) from error
    return rows


def _summary(
    run: Run, model: nn.Module, rows: list[dict[str, float]], validation: Split, test: Split
) -> dict[str, Any]:
    """The best epoch's figures. The test set is looked at here, once, after everything has been chosen."""
    best = run.load("best.pt")
    model.load_state_dict(best["model"])
    return {
        "best_epoch": best["epoch"],
        "peak_validation_accuracy": max(row["validation_accuracy"] for row in rows),
        "final_validation_accuracy": rows[-1]["validation_accuracy"],
        "parameters": parameter_count(model),
        "validation": asdict(evaluate(predict(model, validation.images), validation.classes)),
        "test": asdict(evaluate(predict(model, test.images), test.classes)),
    }


def _tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    # The whole split stays in memory as uint8 (43 MB) and is normalised a batch at a time.
    return torch.tensor(split.images, device=device), torch.tensor(split.classes, dtype=torch.long, device=device)
