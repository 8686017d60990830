"""The study's task: one garment per image, one label. task.py has the interface."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.catalog import build
from hangtag.training.data.augmentation import augment
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.losses.outcome import BatchOutcome
from hangtag.training.losses.single_label import class_loss, distillation_loss
from hangtag.training.metrics.single_label import evaluate, worst
from hangtag.training.networks.batch_norm import fold_batch_norm
from hangtag.training.networks.inference import normalise, predict
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.preparation import prepare
from hangtag.training.tasks.task import Teacher
from hangtag.training.tasks.teacher import teacher_logits

WORST = 24
"""Validation images with the highest loss that the summary lists."""


class SingleLabelTask:
    """Fashion-MNIST for a network with one label per image, with or without a teacher."""

    selection_metric = "validation_accuracy"

    def __init__(
        self,
        config: RunConfig,
        data: FashionMnist,
        device: torch.device,
        teacher: Teacher | None,
        distances: LabelDistances | None,
        observer: Observer,
    ) -> None:
        """Raises LabelDistanceError if the config's loss needs other distances than these."""
        self._model, self._recipe, self._device = config.model, config.recipe, device
        self._teacher, self._observer = teacher, observer
        self._class_loss = class_loss(config.loss, config.recipe.label_smoothing, distances, device)
        self._train = data.train.first(config.limit)
        self._validation, self._test = data.validation.first(config.limit), data.test
        # The whole split stays in memory as uint8 (43 MB) and is normalised batch by batch.
        self._images = torch.tensor(self._train.images, device=device)  # [n, 28, 28]
        self._classes = torch.tensor(self._train.classes, dtype=torch.long, device=device)  # [n]
        self._teacher_logits: Tensor | None = None  # [n, 10]

    def __len__(self) -> int:
        return len(self._train)

    def precompute(self, group: ProcessGroup) -> None:
        """Compute the teacher's logits of all training images; of one, as a trial, if it is to see augmented images.

        Raises TeacherError as the teacher does.
        """
        if (teacher := self._teacher) is None:
            return
        distillation = self._recipe.distillation
        if distillation is not None and distillation.same_view:
            group.on_every_rank(lambda: teacher(self._train.images[:1]))
        else:
            logits = teacher_logits(teacher, self._train.images, group, self._observer)
            self._teacher_logits = torch.from_numpy(logits).to(self._device)

    def network(self) -> nn.Module:
        return prepare(build(self._model), self._recipe, self._device)

    def training_step(self, network: nn.Module, indices: Tensor) -> BatchOutcome:
        indices = indices.to(self._device)  # [batch]
        images = augment(self._images[indices], self._recipe.augmentation)  # [batch, 28, 28], uint8
        classes = self._classes[indices]
        logits = network(normalise(images)).float()  # [batch, 10]
        loss = self._class_loss(logits, classes)
        distillation = self._recipe.distillation
        if distillation is not None and self._teacher is not None:
            if distillation.same_view:
                answers = torch.from_numpy(self._teacher(images.cpu().numpy())).to(self._device)  # [batch, 10]
            else:
                assert self._teacher_logits is not None, "precompute() comes before the first step"
                answers = self._teacher_logits[indices]
            from_teacher = distillation_loss(logits, answers, distillation.temperature)
            loss = (1 - distillation.weight) * loss + distillation.weight * from_teacher
        return BatchOutcome(loss, (logits.argmax(dim=1) == classes).sum())

    def deployable(self, network: nn.Module) -> nn.Module:
        return fold_batch_norm(network)

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        logits = predict(deployable, self._validation.images, check=self._observer.raise_if_stopped)
        if not np.isfinite(logits).all():
            return {"validation_loss": float("nan"), "validation_accuracy": float("nan")}
        evaluation = evaluate(logits, self._validation.classes)
        return {"validation_loss": evaluation.loss, "validation_accuracy": evaluation.accuracy}

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        summary: dict[str, Any] = {"parameters": parameter_count(deployable)}
        for name, split in (("validation", self._validation), ("test", self._test)):
            logits = predict(deployable, split.images, check=self._observer.raise_if_stopped)
            summary[name] = asdict(evaluate(logits, split.classes))
            if name == "validation":  # nobody should choose by the mistakes on the test split
                summary["worst"] = [asdict(sample) for sample in worst(logits, split.classes, WORST)]
        return summary
