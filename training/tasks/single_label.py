"""The study's task: one garment per image, one label. task.py has the interface."""

from dataclasses import asdict, replace
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
from hangtag.training.recipes import Augmentation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.preparation import prepare
from hangtag.training.tasks.task import Teacher
from hangtag.training.tasks.teacher import stored_teacher_logits

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
        # The whole split stays in memory as uint8 (43 MB, and as much for each view) and is normalised batch by batch.
        self._images = torch.tensor(self._train.images, device=device)  # [n, 28, 28]
        self._classes = torch.tensor(self._train.classes, dtype=torch.long, device=device)  # [n]
        self._augmentation = config.recipe.augmentation
        self._views = config.recipe.distillation.views if config.recipe.distillation and teacher else 0
        self._teacher_logits: Tensor | None = None  # [n, 10], or [views * n, 10]

    def __len__(self) -> int:
        return len(self._train)

    def precompute(self, group: ProcessGroup, run: Run) -> None:
        """Compute the teacher's logits of all training images, or of the views of them that the recipe asks for.

        Raises TeacherError as the teacher does.
        """
        if self._teacher is None:
            return
        if self._views:
            self._draw_views()
        logits = stored_teacher_logits(run, self._teacher, self._images.cpu().numpy(), group, self._observer)
        self._teacher_logits = torch.from_numpy(logits).to(self._device)

    def _draw_views(self) -> None:
        """Replace the images [n, 28, 28] by augmented ones, [views * n, 28, 28], the same in every rank.

        Flipping is left to the training steps: the teacher's logits are averages over an image and its mirror image.
        """
        once = replace(self._augmentation, flip=False)
        self._images = torch.cat([augment(self._images, once) for _ in range(self._views)])
        self._augmentation = Augmentation(flip=self._augmentation.flip)

    def network(self) -> nn.Module:
        return prepare(build(self._model), self._recipe, self._device)

    def training_step(self, network: nn.Module, indices: Tensor) -> BatchOutcome:
        indices = indices.to(self._device)  # [batch]
        seen = indices
        if self._views:
            seen = indices + len(self) * torch.randint(self._views, indices.shape).to(self._device)
        images = augment(self._images[seen], self._augmentation)  # [batch, 28, 28], uint8
        classes = self._classes[indices]
        logits = network(normalise(images)).float()  # [batch, 10]
        loss = self._class_loss(logits, classes)
        distillation = self._recipe.distillation
        if distillation is not None and self._teacher is not None:
            assert self._teacher_logits is not None, "precompute() comes before the first step"
            from_teacher = distillation_loss(logits, self._teacher_logits[seen], distillation.temperature)
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
