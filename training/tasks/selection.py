"""Which task a data set sets."""

import torch

from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.data.multi_label import MultiLabelData
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.observer import Watch
from hangtag.training.processes.process_group import Group
from hangtag.training.runs.config import RunConfig
from hangtag.training.tasks.single_label import SingleLabel
from hangtag.training.tasks.task import Task, Teacher


def build_task(
    config: RunConfig,
    data: FashionMnist | MultiLabelData,
    device: torch.device,
    teacher: Teacher | None = None,
    distances: LabelDistances | None = None,
    group: Group = Group(),  # noqa: B008  (frozen)
    watch: Watch = Watch(),  # noqa: B008  (without state)
) -> Task:
    """The task that the data set sets. It looks to the watch between batches, and raises KeyboardInterrupt there."""
    if isinstance(data, MultiLabelData):
        from hangtag.training.tasks.multi_label import MultiLabel  # with torchmetrics, which takes its time to import

        return MultiLabel(config, data, device, watch)
    return SingleLabel(config, data, device, teacher, distances, group, watch)
