"""The multi-label task: an image, a set of labels. What the training loop asks of a task is in task.py."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.data.augmentation import augment
from hangtag.training.data.multi_label import LabelSets, MultiLabelData, MultiLabelSplit
from hangtag.training.losses.multi_label import OBJECTIVES
from hangtag.training.metrics.multi_label import Scores, choose_thresholds, decide, decide_top, evaluate
from hangtag.training.networks.batch_norm import fold_batch_norm
from hangtag.training.networks.inference import normalise
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Watch
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.preparation import prepare
from hangtag.training.tasks.task import Step

_BATCH = 250  # of prediction


class MultiLabel:
    """A multi-label data set for CNN-RNN or one of its baselines.

    CNN-RNN decides by itself, with the likeliest path. The others decide by a threshold, which is chosen anew on the
    validation split whenever they are measured, so that they are as good as they can be.
    """

    # Not the exact match, which counts few of the decisions and so moves more by chance from epoch to epoch.
    selects_by = "validation_o_f1"

    def __init__(self, config: RunConfig, data: MultiLabelData, device: torch.device, watch: Watch) -> None:
        self._recipe, self._device, self._names = config.recipe, device, data.labels
        self._check = watch.check
        self._splits = {
            "train": data.train.first(config.limit),
            "validation": data.validation.first(config.limit),
            "test": data.test,
        }
        train = self._splits["train"]
        self._order = np.argsort(-train.labels.sum(axis=0), kind="stable")
        self._objective = OBJECTIVES[config.model](torch.tensor(self._order, device=device))
        # Without a copy on the CPU: 410 MB of outfits. Normalised a batch at a time.
        self._images = torch.from_numpy(train.images).to(device)
        self._labels = torch.from_numpy(train.labels).to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def network(self) -> nn.Module:
        return prepare(self._objective.network(), self._recipe, self._device)

    def step(self, network: nn.Module, indices: Tensor) -> Step:
        indices = indices.to(self._device)
        images = augment(self._images[indices], self._recipe.augmentation)
        return self._objective.step(
            network, normalise(images), self._labels[indices], smoothing=self._recipe.label_smoothing
        )

    def deployable(self, network: nn.Module) -> nn.Module:
        return fold_batch_norm(network)

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        scores, sets = self._answers(deployable, self._splits["validation"])
        truth = self._splits["validation"].labels
        if not np.isfinite(scores).all():
            return {"validation_o_f1": float("nan"), "validation_exact_match": float("nan")}
        if sets is None:
            sets = decide(scores, choose_thresholds(scores, truth).o_f1)
        outcome = evaluate(sets, scores, truth)
        return {"validation_o_f1": outcome.o_f1, "validation_exact_match": outcome.exact_match}

    def summary(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures on both splits, by the network's own sets ("validation", "test") and by thresholds.

        Without sets of its own, the thresholds that are best for O-F1 decide in "validation" and "test". Under
        "by_threshold" lie the figures for each threshold: best for O-F1, best for the exact match, and 0.5; under
        "by_rank" those for the three labels that score highest.
        """
        answers = {split: self._answers(deployable, self._splits[split]) for split in ("validation", "test")}
        best = choose_thresholds(answers["validation"][0], self._splits["validation"].labels)
        thresholds = asdict(best) | {"one_half": 0.5}
        summary: dict[str, Any] = {
            "parameters": parameter_count(deployable),
            "labels": list(self._names),
            "label_order": [self._names[label] for label in self._order],
            "thresholds": thresholds,
        }
        for split, (scores, sets) in answers.items():
            truth = self._splits[split].labels
            decided = decide(scores, best.o_f1) if sets is None else sets
            summary[split] = asdict(evaluate(decided, scores, truth)) | {
                "by_threshold": {
                    name: asdict(evaluate(decide(scores, threshold), scores, truth))
                    for name, threshold in thresholds.items()
                },
                "by_rank": {"top_3": asdict(evaluate(decide_top(scores, 3), scores, truth))},
            }
        return summary

    def _answers(self, network: nn.Module, split: MultiLabelSplit) -> tuple[Scores, LabelSets | None]:
        network.eval()
        with torch.inference_mode():
            answers = []
            for start in range(0, len(split), _BATCH):
                self._check()
                pixels = torch.tensor(split.images[start : start + _BATCH], device=self._device)
                answers.append(self._objective.answer(network, normalise(pixels)))
        scores: Scores = torch.cat([answer.scores for answer in answers]).cpu().numpy()
        sets = [answer.sets.cpu().numpy() for answer in answers if answer.sets is not None]
        return scores, np.concatenate(sets) if sets else None
