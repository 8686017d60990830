"""The task of one label per image. task.py has the interface."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.losses.single_label import class_loss, distillation_loss
from hangtag.training.metrics.single_label import evaluate, worst
from hangtag.training.networks.inference import predict
from hangtag.training.networks.single_label import parameter_count
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Augmentation, Distillation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.augmentation import augment
from hangtag.training.tasks.teacher import Teacher, teacher_logits

WORST = 24
"""Validation images with the highest loss that the summary lists."""


class SingleLabelTask:
    """A data set of one label per image, with or without a teacher."""

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        run: Run,
        observer: Observer,
        group: ProcessGroup,
        teacher: Teacher | None,
        distances: LabelDistances | None,
    ) -> None:
        """Let the teacher answer all training images, or read its answers from the run's folder.

        Raises as ``build_task`` does.
        """
        device, recipe = torch.device(config.device), config.recipe
        train = data.train.first(config.limit)
        self._observer, self.labels = observer, data.labels
        self._validation, self._test = data.validation.first(config.limit), data.test
        self.selection_metric = f"validation_{config.select}"
        self.image, self.augmentation = data.image, recipe.augmentation
        # The split stays as it is, uint8, and is normalised batch by batch. Torch refuses to share read-only memory.
        images = train.images
        self.images = torch.from_numpy(images if images.flags.writeable else images.copy()).to(device)
        self._classes = torch.tensor(train.classes, dtype=torch.long, device=device)  # [n]
        weights = self._balance().to(device) if config.balance else None
        self._class_loss = class_loss(config.loss, recipe.label_smoothing, distances, device, weights)
        self._distillation: Distillation | None = None
        if teacher is not None and recipe.distillation is not None:
            self._distillation = recipe.distillation
            if recipe.distillation.views:
                self._draw_views(recipe.distillation.views)
            seen, mirrored = self.images.cpu().numpy(), self.augmentation.flip
            logits = teacher_logits(teacher, seen, len(data.labels), run, group, observer, mirrored=mirrored)
            self._teacher_logits = torch.from_numpy(logits).to(device)  # [n, labels], or [views * n, labels]

    def __len__(self) -> int:
        return len(self._classes)

    def _draw_views(self, count: int) -> None:
        """Replace the images [n, ...] by augmented ones, [count * n, ...], the same in every rank.

        Flipping is left to the training steps: the teacher's logits are averages over an image and its mirror image.
        """
        once = replace(self.augmentation, flip=False)
        self.images = torch.cat([augment(self.images, once) for _ in range(count)])
        self.augmentation = Augmentation(flip=self.augmentation.flip)

    def _balance(self) -> Tensor:
        """The weight of each class, [labels]: that of a rare one is larger, and the mean over the samples is 1."""
        counts = torch.bincount(self._classes.cpu(), minlength=len(self.labels))
        return len(self) / (len(self.labels) * counts.clamp(min=1)).to(torch.float32)

    def choose_views(self, samples: Tensor) -> Tensor:
        if self._distillation is None or not self._distillation.views:
            return samples
        return samples + len(self) * torch.randint(self._distillation.views, samples.shape).to(samples.device)

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        classes = self._classes[samples]
        logits = network(pixels).float()  # [batch, labels]
        loss = self._class_loss(logits, classes)
        if (how := self._distillation) is not None:
            from_teacher = distillation_loss(logits, self._teacher_logits[views], how.temperature)
            loss = (1 - how.weight) * loss + how.weight * from_teacher
        return loss, (logits.argmax(dim=1) == classes).sum()

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
        summary: dict[str, Any] = {"parameters": parameter_count(deployable), "labels": list(self.labels)}
        for name, split in (("validation", self._validation), ("test", self._test)):
            logits = predict(deployable, split.images, self.image, check=self._observer.raise_if_stopped)
            summary[name] = asdict(evaluate(logits, split.classes))
            if name == "validation":  # nobody should choose by the mistakes on the test split
                summary["worst"] = [asdict(sample) for sample in worst(logits, split.classes, WORST)]
        return summary
