"""Compare rules that decide which samples a cascade of two models sends to the second model.

Each rule gives every sample a score, and the samples with the lowest scores go to the second model. Rules that learn
use only validation images: five-fold cross-validation for figures of the validation images, and all validation images
for figures of the test images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch.nn import functional

from hangtag.serving.model_repository import numbered_versions
from hangtag.training.data import fashion_mnist
from studies.options import MODELS
from studies.page import percent, table

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Shares of the samples that go to the second model."""
FOLDS = 5
Floats = npt.NDArray[np.floating]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """The answers of both models to a split's images.

    Args:
        logits: The first model's logits, [images, labels].
        features: The input of the first model's last layer, [images, width].
        first, second: Which images each model labels correctly, [images].
    """

    logits: Floats
    features: Floats
    first: Truths
    second: Truths

    def accuracy(self, scores: Floats, share: float) -> float:
        """The cascade's accuracy if the second model answers this share of the images, those with the lowest scores."""
        right, sent_on = self.first.copy(), np.argsort(scores, kind="stable")[: round(share * len(scores))]
        right[sent_on] = self.second[sent_on]
        return float(right.mean())


def _probabilities(logits: Floats) -> Floats:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _highest(split: Split) -> Floats:
    return np.asarray(_probabilities(split.logits).max(axis=1))


def _margin(split: Split) -> Floats:
    highest = np.sort(_probabilities(split.logits), axis=1)
    return np.asarray(highest[:, -1] - highest[:, -2])


def _negative_entropy(split: Split) -> Floats:
    probabilities = _probabilities(split.logits)
    return np.asarray((probabilities * np.log(probabilities + 1e-9)).sum(axis=1))


def _oracle(split: Split) -> Floats:
    return np.subtract(split.first, split.second, dtype=np.float64)


FIXED: Mapping[str, Callable[[Split], Floats]] = {
    "highest probability (what a route does)": _highest,
    "margin of the two highest": _margin,
    "entropy": _negative_entropy,
    "an oracle that knows both answers": _oracle,
}


def _from_logits(split: Split) -> Floats:
    """The logits, the three highest log probabilities, the entropy, and the two labels with the highest logits."""
    order = np.argsort(split.logits, axis=1)
    ordered = np.sort(_probabilities(split.logits), axis=1)[:, :-4:-1]
    labels = np.eye(split.logits.shape[1])
    rest = np.log(1 - ordered[:, :1] + 1e-6)
    return np.hstack([split.logits, np.log(ordered + 1e-6), rest, _negative_entropy(split)[:, None],
                      labels[order[:, -1]], labels[order[:, -2]]])  # fmt: skip


def _from_features(split: Split) -> Floats:
    return np.hstack([_from_logits(split), split.features])


def _first_is_wrong(split: Split) -> Truths:
    return ~split.first


def _only_second_is_right(split: Split) -> Truths:
    return ~split.first & split.second


@dataclass(frozen=True)
class Head:
    """A rule that learns a score from the first model's numbers, with a network of one or two layers."""

    inputs: Callable[[Split], Floats]
    target: Callable[[Split], Truths]
    hidden: int = 0

    def cross_validated(self, split: Split) -> Floats:
        """Scores of a split, each computed by a head that learned from the other folds."""
        inputs, target = self.inputs(split), self.target(split)
        fold = np.random.default_rng(0).integers(0, FOLDS, len(inputs))
        scores = np.zeros(len(inputs))
        for number in range(FOLDS):
            held_out = fold == number
            scores[held_out] = self._learn(inputs[~held_out], target[~held_out])(inputs[held_out])
        return scores

    def transferred(self, learned_from: Split, to: Split) -> Floats:
        """Scores of a split, computed by a head that learned from another split."""
        return self._learn(self.inputs(learned_from), self.target(learned_from))(self.inputs(to))

    def _learn(self, inputs: Floats, target: Truths) -> Callable[[Floats], Floats]:
        torch.manual_seed(0)
        mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        width = inputs.shape[1]
        network: torch.nn.Module = torch.nn.Linear(width, 1)
        if self.hidden:
            layers = torch.nn.Linear(width, self.hidden), torch.nn.ReLU(), torch.nn.Linear(self.hidden, 1)
            network = torch.nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=1e-2)

        def outputs(values: Floats) -> torch.Tensor:
            return network(torch.from_numpy((values - mean) / deviation).float())[:, 0]  # type: ignore[no-any-return]

        for _ in range(400):
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(outputs(inputs), torch.from_numpy(target).float()).backward()
            optimizer.step()
        return lambda values: -outputs(values).detach().numpy()


HEADS: Mapping[str, Head] = {
    "linear head on the logits: the first is wrong": Head(_from_logits, _first_is_wrong),
    "linear head on the logits: only the second is right": Head(_from_logits, _only_second_is_right),
    "linear head on the features: the first is wrong": Head(_from_features, _first_is_wrong),
    "linear head on the features: only the second is right": Head(_from_features, _only_second_is_right),
    "head of 16 units on the features: the first is wrong": Head(_from_features, _first_is_wrong, hidden=16),
}


@click.command()
@click.argument("first", default="lstm-int8")
@click.argument("second", default="cnn-int8")
@MODELS
def main(first: str, second: str, models: Path) -> None:
    """Compare rules for what the cascade FIRST → SECOND sends on, and print the tables of the README."""
    torch.set_num_threads(1)
    validation, test = (_split(models, first, second, name) for name in ("validation", "test"))
    _print("Validation", validation, {name: head.cross_validated(validation) for name, head in HEADS.items()})
    _print("Test", test, {name: head.transferred(validation, test) for name, head in HEADS.items()})


def _split(models: Path, first: str, second: str, name: str) -> Split:
    data = getattr(fashion_mnist.load(), name)
    model = _model(models, first)
    last = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")][-1]
    model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    logits, features = _run(model, data.images, "logits", last.input[0])
    (others,) = _run(_model(models, second), data.images, "logits")
    return Split(logits, features, logits.argmax(axis=1) == data.classes, others.argmax(axis=1) == data.classes)


def _model(models: Path, name: str) -> onnx.ModelProto:
    return onnx.load(numbered_versions(models / name)[0].path)


def _run(model: onnx.ModelProto, images: npt.NDArray[np.uint8], *outputs: str) -> list[Floats]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = [session.run(outputs, {"image": batch}) for batch in np.array_split(images, len(images) // 250)]
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*batches, strict=True)]


def _print(title: str, split: Split, learned: Mapping[str, Floats]) -> None:
    scores = {**{name: rule(split) for name, rule in FIXED.items()}, **learned}
    rows = [[name, *(percent(split.accuracy(score, share)) for share in SHARES)] for name, score in scores.items()]
    head = [f"{title} images: what goes on", *(f"{share:.0%}" for share in SHARES)]
    click.echo(f"{table(head, rows, right=len(SHARES))}\n")
