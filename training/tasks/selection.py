"""Which task a data set sets."""

import torch

from training.config import RunConfig
from training.data import FashionMnist
from training.distributed import Group
from training.label_distance import LabelDistances
from training.multi_label.data import MultiLabelData
from training.single_label import SingleLabel
from training.task import Task, Teacher
from training.watch import Watch


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
        from training.multi_label.task import MultiLabel  # with torchmetrics, which takes its time to import

        return MultiLabel(config, data, device, watch)
    return SingleLabel(config, data, device, teacher, distances, group, watch)
