"""The multi-label task: a set of labels per image. task.py has the interface."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.catalog import NETWORKS
from hangtag.training.data.dataset import Dataset, LabelSets, Split
from hangtag.training.metrics.multi_label import Scores, choose_thresholds, decide, decide_top, evaluate
from hangtag.training.networks.inference import normalise
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Observer
from hangtag.training.runs.config import RunConfig

_PREDICTION_BATCH = 250


class MultiLabelTask:
    """A multi-label data set for CNN-RNN or one of its baselines.

    CNN-RNN decides itself: its label set is its most probable path. The baselines need a threshold, which is chosen
    on the validation split for every measurement, so that each is measured at its best.
    """

    # Not the exact match: it counts few of the decisions, so it varies more by chance from epoch to epoch.
    selection_metric = "validation_o_f1"

    def __init__(self, config: RunConfig, data: Dataset, observer: Observer) -> None:
        device = torch.device(config.device)
        self._smoothing, self.labels, self._observer = config.recipe.label_smoothing, data.labels, observer
        self.image, self.augmentation = data.image, config.recipe.augmentation
        train = data.train.first(config.limit)
        self._validation, self._test = data.validation.first(config.limit), data.test
        self._label_order = np.argsort(-train.classes.sum(axis=0), kind="stable")  # the most frequent label first
        objective = NETWORKS[config.model].objective
        assert objective is not None, f"{config.model} is not a multi-label network"
        self._objective = objective(torch.tensor(self._label_order, device=device))
        # from_numpy shares memory: a second copy of outfits on the CPU would take 410 MB. Normalised batch by batch.
        self.images = torch.from_numpy(train.images).to(device)  # [n, 64, 64], uint8
        self._sets = torch.from_numpy(train.classes).to(device)  # [n, labels], bool

    def __len__(self) -> int:
        return len(self._sets)

    def choose_views(self, samples: Tensor) -> Tensor:
        return samples

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        return self._objective.training_step(network, pixels, self._sets[samples], self._smoothing)

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        scores, sets = self._predict(deployable, self._validation)
        truth = self._validation.classes
        if not np.isfinite(scores).all():
            return {"validation_o_f1": float("nan"), "validation_exact_match": float("nan")}
        if sets is None:
            sets = decide(scores, choose_thresholds(scores, truth).o_f1)
        evaluation = evaluate(sets, scores, truth)
        return {"validation_o_f1": evaluation.o_f1, "validation_exact_match": evaluation.exact_match}

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures on both splits: of the network's own label sets, by thresholds, and by rank.

        "validation" and "test" measure the network's own sets; for a network without, the sets by the threshold that is
        best for O-F1. Under "by_threshold" are the figures for each threshold: best for O-F1, best for the exact match,
        and 0.5. Under "by_rank" are those of the three labels that score highest.
        """
        splits = {"validation": self._validation, "test": self._test}
        predictions = {name: self._predict(deployable, split) for name, split in splits.items()}
        best = choose_thresholds(predictions["validation"][0], self._validation.classes)
        thresholds = asdict(best) | {"one_half": 0.5}
        summary: dict[str, Any] = {
            "parameters": parameter_count(deployable),
            "labels": list(self.labels),
            "label_order": [self.labels[label] for label in self._label_order],
            "thresholds": thresholds,
        }
        for name, (scores, sets) in predictions.items():
            truth = splits[name].classes
            decided = decide(scores, best.o_f1) if sets is None else sets
            summary[name] = asdict(evaluate(decided, scores, truth)) | {
                "by_threshold": {
                    figure: asdict(evaluate(decide(scores, threshold), scores, truth))
                    for figure, threshold in thresholds.items()
                },
                "by_rank": {"top_3": asdict(evaluate(decide_top(scores, 3), scores, truth))},
            }
        return summary

    def _predict(self, network: nn.Module, split: Split) -> tuple[Scores, LabelSets | None]:
        network.eval()
        with torch.inference_mode():
            predictions = []
            for start in range(0, len(split), _PREDICTION_BATCH):
                self._observer.raise_if_stopped()
                pixels = torch.tensor(split.images[start : start + _PREDICTION_BATCH], device=self.images.device)
                predictions.append(self._objective.predict(network, normalise(pixels, self.image)))
        scores: Scores = torch.cat([prediction.scores for prediction in predictions]).cpu().numpy()
        sets = [prediction.label_sets.cpu().numpy() for prediction in predictions if prediction.label_sets is not None]
        return scores, np.concatenate(sets) if sets else None
