"""The task of one label per image. task.py has the interface."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.data.augmentation import augment
from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.losses.outcome import BatchOutcome
from hangtag.training.losses.single_label import class_loss, distillation_loss
from hangtag.training.metrics.single_label import evaluate, worst
from hangtag.training.networks.inference import predict
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Augmentation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.task import Teacher
from hangtag.training.tasks.teacher import stored_teacher_logits

WORST = 24
"""Validation images with the highest loss that the summary lists."""


class SingleLabelTask:
    """A data set of one label per image, with or without a teacher."""

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        device: torch.device,
        teacher: Teacher | None,
        distances: LabelDistances | None,
        observer: Observer,
    ) -> None:
        """Raises LabelDistanceError if the config's loss needs other distances than these."""
        self._distillation, self._device = config.recipe.distillation, device
        self._teacher, self._observer, self._labels = teacher, observer, data.labels
        self._train = data.train.first(config.limit)
        self._validation, self._test = data.validation.first(config.limit), data.test
        self.selection_metric = f"validation_{config.select}"
        self.image, self.augmentation = data.image, config.recipe.augmentation
        # The split stays as it is, uint8, and is normalised batch by batch. Torch refuses to share read-only memory.
        images = self._train.images
        self.images = torch.from_numpy(images if images.flags.writeable else images.copy()).to(device)
        self._classes = torch.tensor(self._train.classes, dtype=torch.long, device=device)  # [n]
        weights = self._balance(len(data.labels)).to(device) if config.balance else None
        self._class_loss = class_loss(config.loss, config.recipe.label_smoothing, distances, device, weights)
        self._views = config.recipe.distillation.views if config.recipe.distillation and teacher else 0
        self._teacher_logits: Tensor | None = None  # [n, labels], or [views * n, labels]

    def __len__(self) -> int:
        return len(self._train)

    def precompute(self, group: ProcessGroup, run: Run) -> None:
        """Compute the teacher's logits of all training images, or of the views of them that the recipe asks for.

        Raises TeacherError as the teacher does.
        """
        if self._teacher is None:
            return
        mirrored = self.augmentation.flip
        if self._views:
            self._draw_views()
        images = self.images.cpu().numpy()
        logits = stored_teacher_logits(
            run, self._teacher, images, len(self._labels), group, self._observer, mirrored=mirrored
        )
        self._teacher_logits = torch.from_numpy(logits).to(self._device)

    def _draw_views(self) -> None:
        """Replace the images [n, ...] by augmented ones, [views * n, ...], the same in every rank.

        Flipping is left to the training steps: the teacher's logits are averages over an image and its mirror image.
        """
        once = replace(self.augmentation, flip=False)
        self.images = torch.cat([augment(self.images, once) for _ in range(self._views)])
        self.augmentation = Augmentation(flip=self.augmentation.flip)

    def _balance(self, labels: int) -> Tensor:
        """The weight of each class, [labels]: that of a rare one is larger, and the mean over the samples is 1."""
        counts = torch.bincount(self._classes.cpu(), minlength=labels)
        return len(self._train) / (labels * counts.clamp(min=1)).to(torch.float32)

    def choose_views(self, samples: Tensor) -> Tensor:
        if not self._views:
            return samples
        return samples + len(self) * torch.randint(self._views, samples.shape).to(self._device)

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> BatchOutcome:
        classes = self._classes[samples]
        logits = network(pixels).float()  # [batch, labels]
        loss = self._class_loss(logits, classes)
        if self._distillation is not None and self._teacher is not None:
            assert self._teacher_logits is not None, "precompute() comes before the first step"
            how = self._distillation
            from_teacher = distillation_loss(logits, self._teacher_logits[views], how.temperature)
            loss = (1 - how.weight) * loss + how.weight * from_teacher
        return BatchOutcome(loss, (logits.argmax(dim=1) == classes).sum())

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        split = self._validation
        logits = predict(deployable, split.images, self.image, check=self._observer.raise_if_stopped)
        names = ("validation_loss", "validation_accuracy", "validation_balanced_accuracy")
        if not np.isfinite(logits).all():
            return dict.fromkeys(names, float("nan"))
        evaluation = evaluate(logits, split.classes)
        figures = (evaluation.loss, evaluation.accuracy, evaluation.balanced_accuracy)
        return dict(zip(names, figures, strict=True))

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        summary: dict[str, Any] = {"parameters": parameter_count(deployable), "labels": list(self._labels)}
        for name, split in (("validation", self._validation), ("test", self._test)):
            logits = predict(deployable, split.images, self.image, check=self._observer.raise_if_stopped)
            summary[name] = asdict(evaluate(logits, split.classes))
            if name == "validation":  # nobody should choose by the mistakes on the test split
                summary["worst"] = [asdict(sample) for sample in worst(logits, split.classes, WORST)]
        return summary
