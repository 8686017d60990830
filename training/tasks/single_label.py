"""The study's task: one garment, one label. What the training loop asks of a task is in task.py."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.data.augmentation import augment
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.losses import single_label as losses
from hangtag.training.metrics.single_label import evaluate
from hangtag.training.networks.batch_norm import fold_batch_norm
from hangtag.training.networks.inference import normalise, predict
from hangtag.training.networks.single_label import build, parameter_count
from hangtag.training.observer import Watch
from hangtag.training.processes.process_group import Group
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.preparation import prepare
from hangtag.training.tasks.task import Step, Teacher
from hangtag.training.tasks.teacher import answers


class SingleLabel:
    """Fashion-MNIST's images and classes for one of the study's networks.

    With a teacher, its answers to the training images are asked for once, here.
    """

    selects_by = "validation_accuracy"

    def __init__(
        self,
        config: RunConfig,
        data: FashionMnist,
        device: torch.device,
        teacher: Teacher | None,
        distances: LabelDistances | None,
        group: Group,
        watch: Watch,
    ) -> None:
        self._model, self._recipe, self._device = config.model, config.recipe, device
        self._loss = losses.class_loss(config.loss, config.recipe.label_smoothing, distances, device)
        train = data.train.first(config.limit)
        self._validation, self._test = data.validation.first(config.limit), data.test
        # The whole split stays in memory as uint8 (43 MB) and is normalised a batch at a time.
        self._images = torch.tensor(train.images, device=device)
        self._classes = torch.tensor(train.classes, dtype=torch.long, device=device)
        self._soft = (
            None if teacher is None else torch.from_numpy(answers(teacher, train.images, group, watch)).to(device)
        )
        self._check = watch.check

    def __len__(self) -> int:
        return len(self._classes)

    def network(self) -> nn.Module:
        return prepare(build(self._model), self._recipe, self._device)

    def step(self, network: nn.Module, indices: Tensor) -> Step:
        indices = indices.to(self._device)
        images = augment(self._images[indices], self._recipe.augmentation)
        classes = self._classes[indices]
        logits = network(normalise(images)).float()
        loss = self._loss(logits, classes)
        how = self._recipe.distillation
        if how is not None and self._soft is not None:
            soft = losses.divergence(logits, self._soft[indices], how.temperature)
            loss = (1 - how.weight) * loss + how.weight * soft
        return Step(loss, (logits.argmax(dim=1) == classes).sum())

    def deployable(self, network: nn.Module) -> nn.Module:
        return fold_batch_norm(network)

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        logits = predict(deployable, self._validation.images, check=self._check)
        if not np.isfinite(logits).all():
            return {"validation_loss": float("nan"), "validation_accuracy": float("nan")}
        outcome = evaluate(logits, self._validation.classes)
        return {"validation_loss": outcome.loss, "validation_accuracy": outcome.accuracy}

    def summary(self, deployable: nn.Module) -> dict[str, Any]:
        summary: dict[str, Any] = {"parameters": parameter_count(deployable)}
        for name, split in (("validation", self._validation), ("test", self._test)):
            summary[name] = asdict(evaluate(predict(deployable, split.images, check=self._check), split.classes))
        return summary
