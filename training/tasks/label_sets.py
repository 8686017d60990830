"""The task of a set of labels per image, for CNN-RNN and its baselines. task.py defines the interface."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hangtag.training.catalog import NETWORKS
from hangtag.training.data.dataset import Dataset, Split
from hangtag.training.metrics.set_metrics import choose_threshold, decide, evaluate
from hangtag.training.progress import Observer
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.task import Task


class MultiLabelTask(Task):
    """The task of a multi-label data set.

    CNN-RNN predicts the label set of its most probable path. The baselines need a threshold. For every measurement the
    best threshold on the validation split is chosen, so that a baseline is measured at its best.
    """

    # The exact match does not choose the best epoch, because the exact match varies more by chance from epoch to epoch.
    selection_metric = "validation_o_f1"
    _followed = ("o_f1", "exact_match")
    _prediction_batch = 250

    def __init__(self, config: RunConfig, data: Dataset, observer: Observer) -> None:
        super().__init__(config, data, observer)
        self._smoothing = config.recipe.label_smoothing
        self._label_order = np.argsort(-self._train.classes.sum(axis=0), kind="stable")  # the most frequent label first
        objective = NETWORKS[config.model].objective
        assert objective is not None, f"{config.model} is not a multi-label network"
        self._objective = objective(torch.tensor(self._label_order, device=self._device))
        self._sets = torch.from_numpy(self._train.classes).to(self._device)  # [n, labels], bool

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        return self._objective.training_step(network, pixels, self._sets[samples], self._smoothing)

    def _evaluate(self, predictions: Sequence[npt.NDArray[Any]], split: Split) -> dict[str, Any]:
        scores, *sets = predictions
        decided = sets[0] if sets else decide(scores, choose_threshold(scores, split.classes))
        return asdict(evaluate(decided, scores, split.classes))

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """Return the figures on the validation and test splits. If the network does not predict label sets itself, the
        threshold with the best O-F1 on the validation split determines the sets."""
        predictions = {name: self._predictions(deployable, split.images) for name, split in self._splits.items()}
        order = [self.labels[label] for label in self._label_order]
        summary = super().summarise(deployable) | {"label_order": order}
        threshold, (scores, *own) = 0.0, predictions["validation"]
        if not own:
            threshold = choose_threshold(scores, self._splits["validation"].classes)
            summary["thresholds"] = {"o_f1": threshold}
        for name, (scores, *sets) in predictions.items():
            decided = sets[0] if sets else decide(scores, threshold)
            summary[name] = asdict(evaluate(decided, scores, self._splits[name].classes))
        return summary

    def _predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        return self._objective.predict(network, pixels)
