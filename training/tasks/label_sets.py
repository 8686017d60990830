"""The task of a set of labels per image, for CNN-RNN and its baselines. task.py has the interface."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hangtag.training.catalog import NETWORKS
from hangtag.training.data.dataset import Dataset, Split
from hangtag.training.metrics.set_metrics import choose_thresholds, decide, decide_top, evaluate
from hangtag.training.progress import Observer
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.task import Task


class MultiLabelTask(Task):
    """A multi-label data set.

    CNN-RNN decides by itself: its label set is its most probable path. The baselines need a threshold, which is chosen
    on the validation split for every measurement, so that each baseline is measured at its best.
    """

    # Not the exact match: it counts few of the decisions, so it varies more by chance from epoch to epoch.
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
        decided = sets[0] if sets else decide(scores, choose_thresholds(scores, split.classes).o_f1)
        return asdict(evaluate(decided, scores, split.classes))

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures on both splits: of the network's own label sets, by thresholds, and by rank.

        "validation" and "test" measure the network's own sets, or else the sets by the threshold that is best for O-F1.
        "by_threshold" has the figures for each threshold: best for O-F1, best for the exact match, and 0.5. "by_rank"
        has the figures of the three labels that score highest.
        """
        predictions = {name: self._predictions(deployable, split.images) for name, split in self._splits.items()}
        best = choose_thresholds(predictions["validation"][0], self._splits["validation"].classes)
        thresholds = asdict(best) | {"one_half": 0.5}
        order = [self.labels[label] for label in self._label_order]
        summary = super().summarise(deployable) | {"label_order": order, "thresholds": thresholds}
        for name, (scores, *sets) in predictions.items():
            truth = self._splits[name].classes
            decided = sets[0] if sets else decide(scores, best.o_f1)
            summary[name] = asdict(evaluate(decided, scores, truth)) | {
                "by_threshold": {
                    figure: asdict(evaluate(decide(scores, threshold), scores, truth))
                    for figure, threshold in thresholds.items()
                },
                "by_rank": {"top_3": asdict(evaluate(decide_top(scores, 3), scores, truth))},
            }
        return summary

    def _predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        return self._objective.predict(network, pixels)
