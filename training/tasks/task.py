"""Tasks: what a network learns from a data set, with one label or a set of labels per image, and how the network is
measured. The loop handles steps and epochs, and a task handles labels and losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hangtag.training.catalog import NETWORKS
from hangtag.training.data.dataset import Dataset, Images, Split
from hangtag.training.losses import distillation_loss
from hangtag.training.metrics.class_metrics import evaluate, worst
from hangtag.training.metrics.set_metrics import choose_threshold, decide
from hangtag.training.metrics.set_metrics import evaluate as evaluate_sets
from hangtag.training.networks.normalisation import normalise
from hangtag.training.processes import ProcessGroup
from hangtag.training.progress import Observer
from hangtag.training.recipes import Augmentation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.augmentation import augment
from hangtag.training.tasks.teacher import Teacher, teacher_logits

WORST = 24  # the number of validation images in the summary's list of images with the highest loss
Predictions = Sequence[npt.NDArray[Any]]  # a network's outputs for a whole split, each [n, ...]


class Task(ABC):
    """A data set to learn from, with one ``image`` description and the names of its ``labels``.

    ``images``, uint8 [views * n, height, width] or [views * n, height, width, 3], on the device, has the first view of
    all n samples, then the second view, and so on. Most tasks have one view. If a stop is requested, the task's methods
    raise KeyboardInterrupt between batches.
    """

    selection_metric: str  # the metric of ``validate`` that selects the best epoch; higher is better
    _followed: Sequence[str]  # the metrics that are measured after every epoch
    _prediction_batch = 500

    def __init__(self, config: RunConfig, data: Dataset, observer: Observer) -> None:
        """Move the training images to the device. The images stay uint8, and are normalised batch by batch."""
        self.labels, self.image, self.augmentation = data.labels, data.image, config.recipe.augmentation
        self._train, self._observer = data.train.first(config.limit), observer
        self._device = torch.device(config.device)
        self._splits = {"validation": data.validation.first(config.limit), "test": data.test}
        # from_numpy shares the array's memory, and torch expects writable memory.
        images = self._train.images
        self.images = torch.from_numpy(images if images.flags.writeable else images.copy()).to(self._device)

    def __len__(self) -> int:
        """Return the number of training samples."""
        return len(self._train)

    def choose_views(self, samples: Tensor) -> Tensor:
        """Choose a view of each sample at random, from torch's global random state. Returns the views' indices in
        ``images``, [batch]."""
        views = len(self.images) // len(self)
        return samples if views == 1 else samples + len(self) * torch.randint(views, samples.shape).to(samples.device)

    @abstractmethod
    def loss(self, network: nn.Module, pixels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the forward pass and the mean loss of augmented images, FP32 [batch, channels, height, width].
        ``views`` [batch] holds each image's index in ``images``. Returns the loss, a scalar to differentiate, and
        the number of samples that were predicted correctly."""

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        """Return the epoch's metrics on the validation split, which are NaN if the network's outputs are not finite."""
        split = self._splits["validation"]
        predictions = self._predictions(deployable, split.images)
        figures = self._evaluate(predictions, split) if np.isfinite(predictions[0]).all() else {}
        return {f"validation_{name}": figures.get(name, float("nan")) for name in self._followed}

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """Return the metrics of the best epoch's network. Only this method uses the test split."""
        trainable = [weights for weights in deployable.parameters() if weights.requires_grad]
        predictions = {name: self._predictions(deployable, split.images) for name, split in self._splits.items()}
        summary = {"parameters": sum(weights.numel() for weights in trainable), "labels": list(self.labels)}
        return summary | self._summary(predictions)

    @abstractmethod
    def _evaluate(self, predictions: Predictions, split: Split) -> dict[str, Any]:
        """Compute the metrics of the predictions on a whole split."""

    @abstractmethod
    def _summary(self, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
        """Compute the metrics of the predictions on the validation and test splits."""

    def _predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        """Return the network's outputs for a batch, each [batch, ...]. Most networks have one output."""
        return (network(pixels),)

    @torch.inference_mode()
    def _predictions(self, network: nn.Module, images: Images) -> Predictions:
        network.eval()
        batches = []
        for start in range(0, len(images), self._prediction_batch):
            self._observer.raise_if_stopped()
            batch = torch.tensor(images[start : start + self._prediction_batch], device=self._device)
            batches.append(self._predict(network, normalise(batch, self.image)))
        return [torch.cat(parts).cpu().numpy() for parts in zip(*batches, strict=True)]


class SingleLabelTask(Task):
    """The task of a data set with one label per image, with or without a teacher."""

    _followed = ("loss", "accuracy", "balanced_accuracy")

    def __init__(
        self,
        config: RunConfig,
        data: Dataset,
        run: Run,
        observer: Observer,
        group: ProcessGroup,
        teacher: Teacher | None,
    ) -> None:
        """Compute the teacher's logits of all training images, or read them from the run's folder. Raises the errors of
        ``teacher_logits``. The caller must first seed torch with the run's seed, so that a resumed run draws the same
        views as a new run."""
        super().__init__(config, data, observer)
        self.selection_metric = f"validation_{config.select}"
        self._classes = torch.tensor(self._train.classes, dtype=torch.long, device=self._device)  # [n]
        weights = None
        if config.balance:  # rare classes have larger weights; the mean weight of all samples is 1
            counts = torch.bincount(self._classes.cpu(), minlength=len(self.labels))  # [labels]
            weights = (len(self) / (len(self.labels) * counts.clamp(min=1)).to(torch.float32)).to(self._device)
        smoothing = config.recipe.label_smoothing
        self._class_loss = partial(functional.cross_entropy, weight=weights, label_smoothing=smoothing)
        self._distillation = None if teacher is None else config.recipe.distillation
        if teacher is not None and self._distillation is not None:
            if views := self._distillation.views:
                # The views are not flipped, because the teacher's logits are means over an image and its mirror image,
                # and so hold for both. The views are the same in every rank.
                once = replace(self.augmentation, flip=False)
                self.images = torch.cat([augment(self.images, once) for _ in range(views)])
                self.augmentation = Augmentation(flip=self.augmentation.flip)
            seen, mirrored = self.images.cpu().numpy(), self.augmentation.flip
            logits = teacher_logits(teacher, seen, len(data.labels), run, group, observer, mirrored=mirrored)
            self._teacher_logits = torch.from_numpy(logits).to(self._device)  # [views * n, labels]

    def loss(self, network: nn.Module, pixels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        classes = self._classes[views % len(self)]
        logits = network(pixels).float()  # [batch, labels]
        loss = self._class_loss(logits, classes)
        if (how := self._distillation) is not None:
            from_teacher = distillation_loss(logits, self._teacher_logits[views], how.temperature)
            loss = (1 - how.weight) * loss + how.weight * from_teacher
        return loss, (logits.argmax(dim=1) == classes).sum()

    def _evaluate(self, predictions: Predictions, split: Split) -> dict[str, Any]:
        return asdict(evaluate(predictions[0], split.classes))

    def _summary(self, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
        figures = {name: self._evaluate(predictions[name], split) for name, split in self._splits.items()}
        # mistakes on the test split are not listed, because nobody should choose settings by them
        return figures | {"worst": worst(predictions["validation"][0], self._splits["validation"].classes, WORST)}


class MultiLabelTask(Task):
    """The task of a multi-label data set, for CNN-RNN and its baselines. A baseline uses the threshold that is best on
    the validation split."""

    # The best epoch is chosen by O-F1, not by the exact match, which varies more by chance from epoch to epoch.
    selection_metric = "validation_o_f1"
    _followed = ("o_f1", "exact_match")
    _prediction_batch = 250

    def __init__(self, config: RunConfig, data: Dataset, observer: Observer) -> None:
        super().__init__(config, data, observer)
        self._label_order = np.argsort(-self._train.classes.sum(axis=0), kind="stable")  # the most frequent label first
        self._order = torch.tensor(self._label_order, device=self._device)
        self._smoothing = config.recipe.label_smoothing
        objective = NETWORKS[config.model].objective
        assert objective is not None, f"{config.model} is not a multi-label network"
        self._objective = objective
        self._sets = torch.from_numpy(self._train.classes).to(self._device)  # [n, labels], bool

    def loss(self, network: nn.Module, pixels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        return self._objective.loss(network, pixels, self._sets[views], self._order, self._smoothing)

    def _evaluate(self, predictions: Predictions, split: Split, threshold: float | None = None) -> dict[str, Any]:
        scores, *own = predictions  # CNN-RNN also predicts the label sets
        if not own:
            own = [decide(scores, choose_threshold(scores, split.classes) if threshold is None else threshold)]
        return evaluate_sets(own[0], scores, split.classes)

    def _summary(self, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
        threshold, (scores, *own) = None, predictions["validation"]
        if not own:
            threshold = choose_threshold(scores, self._splits["validation"].classes)
        figures = {name: self._evaluate(predictions[name], split, threshold) for name, split in self._splits.items()}
        order = {"label_order": [self.labels[label] for label in self._label_order]}
        return order | ({} if own else {"thresholds": {"o_f1": threshold}}) | figures

    def _predict(self, network: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
        return self._objective.predict(network, pixels)
