"""Creates runs quickly, with the real trainer or with random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hangtag.training.catalog import build, dataset_for
from hangtag.training.data import outfits
from hangtag.training.data.dataset import Images, Split
from hangtag.training.data.fashion_mnist import DIGEST, LABELS
from hangtag.training.loop.train import train as train_run
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from tests.kit import garments as garments_kit

EPOCHS = 2


def train(folder: Path, model: str, garments: Split, images: int = 32, epochs: int = EPOCHS) -> Run:
    """Train a run with the real trainer, for only two steps by default."""
    few = garments.first(images)
    run = Run(folder)
    train_run(make_config(model, images, epochs), garments_kit.of(few, few, garments), run)
    return run


def start(folder: Path, model: str) -> Run:
    """A run that was started but not finished."""
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
        dataset=dataset_for(None, model),
    )


def finished(folder: Path, model: str, state: Mapping[str, Any]) -> Run:
    """A finished run with these weights."""
    run = start(folder, model)
    run.save("best.pt", {"model": state, "epoch": 1})
    epoch = {"epoch": 1, "validation_accuracy": 0.5}
    summary = {"parameters": 0, "best_epoch": 1, "validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    run.write_json("metrics.json", {"epochs": [epoch], "summary": summary})
    return run


THRESHOLD = 0.2
FIGURES = {"validation": {"o_f1": 0.75, "exact_match": 0.25}, "test": {"o_f1": 0.7, "exact_match": 0.2}}


def canvases(garments: Split, count: int) -> Images:
    """The first canvases [count, 64, 64] of the exporter's test split, composed of these garments."""
    return outfits.load_split("outfits", "test", garments, count).images


@torch.no_grad()
def decisive_cnn_rnn(garments: Split, spread: float = 1.0) -> CnnRnn:
    """A CNN-RNN with random weights, scaled so that the path depends on the image. Paths have every length from 0 to 5.

    spread: The standard deviation of the projected images. The smaller it is, the less certain the network is.
    """
    torch.manual_seed(1)
    network = CnnRnn(len(LABELS)).eval()
    nn.init.normal_(network.embeddings.weight)
    nn.init.normal_(network.project_output.weight, std=0.3)
    projection = nn.init.normal_(network.project_image.weight)
    features = network.encoder(torch.tensor(canvases(garments, 100))[:, None] / 255)
    common = features.mean(dim=0)  # remove what all images have in common
    projection.mul_(spread / ((features - common) @ projection.T).std())
    network.project_image.bias.copy_(-projection @ common)
    return network


@torch.no_grad()
def decisive_scores(model: str, garments: Split) -> nn.Module:
    """A baseline with random weights, scaled so that its label sets have different sizes."""
    torch.manual_seed(2)
    network = build(model)
    *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    logits = network.eval()(torch.tensor(canvases(garments, 100))[:, None] / 255)
    # softmax_ranking's ten probabilities add up to 1. If these differ little, none reaches the threshold.
    scale = (1.0 if model == "softmax_ranking" else 0.25) / logits.std(dim=0).mean()
    last.bias.copy_(torch.logit(torch.tensor(THRESHOLD)) - scale * (logits.mean(dim=0) - last.bias))
    last.weight.mul_(scale)
    return network


def finished_sets(folder: Path, model: str, state: Mapping[str, torch.Tensor]) -> Run:
    """Create a finished run of this model with these weights, even if the weights do not fit the model."""
    run = start(folder, model)
    run.save("best.pt", {"model": state, "epoch": 1})
    summary = {
        "parameters": sum(weight.numel() for weight in state.values()),
        "best_epoch": 1,
        "labels": list(LABELS),
        "label_order": list(LABELS),
        "thresholds": {"o_f1": THRESHOLD},
        **FIGURES,
    }
    run.write_json("metrics.json", {"epochs": [{"epoch": 1, "validation_o_f1": 0.75}], "summary": summary})
    return run
