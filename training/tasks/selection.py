"""Chooses the task that a data set needs: one label or a set of labels per image."""

import torch

from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.observer import Observer
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.single_label import SingleLabelTask
from hangtag.training.tasks.task import Task, Teacher


def build_task(
    config: RunConfig,
    data: Dataset,
    device: torch.device,
    teacher: Teacher | None = None,
    distances: LabelDistances | None = None,
    observer: Observer = Observer(),  # noqa: B008  (stateless)
) -> Task:
    """The task for a data set. Between batches it raises KeyboardInterrupt if the observer requests a stop.

    Raises:
        LabelDistanceError: The config's loss needs label distances, and ``distances`` are not those that it names.
    """
    if data.has_label_sets:
        from hangtag.training.tasks.multi_label import MultiLabelTask  # imports torchmetrics, which is slow

        return MultiLabelTask(config, data, device, observer)
    return SingleLabelTask(config, data, device, teacher, distances, observer)
