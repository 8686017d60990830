"""The interface between the training loop and a task, and the task that a data set needs.

The loop knows steps and epochs, a task knows labels and losses.
"""

from typing import Any, Protocol

from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Dataset
from hangtag.training.labels.distance import LabelDistances
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Augmentation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.single_label import SingleLabelTask
from hangtag.training.tasks.teacher import Teacher


class Task(Protocol):
    """What a network learns, and how it is measured. Between batches it raises KeyboardInterrupt for a stop.

    Attributes:
        labels: Their names.
        images: To learn from, uint8 [views, height, width] or [views, height, width, 3], on the device. There are as
            many as samples, or several views of each.
        image: Describes them.
        augmentation: How they are changed in every step.
        selection_metric: The figure of ``validate`` that selects the best epoch: the higher the better.
    """

    labels: tuple[str, ...]
    images: Tensor
    image: ImageSpec
    augmentation: Augmentation
    selection_metric: str

    def __len__(self) -> int:
        """The number of training samples."""

    def choose_views(self, samples: Tensor) -> Tensor:
        """Indices into ``images`` [batch] of one view of each sample [batch], by torch's global random state."""

    def loss(self, network: nn.Module, pixels: Tensor, samples: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """The forward pass and the loss.

        Args:
            network: The network in training mode.
            pixels: FP32 [batch, channels, height, width], augmented.
            samples: Which samples they are of, [batch].
            views: Which of ``images`` they are, [batch].

        Returns:
            The mean loss, a scalar to differentiate, and how many samples were predicted correctly.
        """

    def validate(self, deployable: nn.Module) -> dict[str, float]:
        """The epoch's figures on the validation split; NaN where the network's outputs are not finite."""

    def summarise(self, deployable: nn.Module) -> dict[str, Any]:
        """The figures of the best epoch's network. This method alone uses the test split."""


def build_task(
    config: RunConfig,
    data: Dataset,
    run: Run,
    observer: Observer,
    group: ProcessGroup,
    teacher: Teacher | None,
    distances: LabelDistances | None,
) -> Task:
    """The task for a data set: one label or a set of labels per image.

    Called with the random state that the run's seed gives, whether the run is new or resumed.

    Raises:
        LabelDistanceError: The config's loss needs label distances, and ``distances`` are not those that it names.
        TeacherError: The teacher fails on the images.
        RunMismatchError: The run's file of a teacher's logits is damaged, or cannot be written.
    """
    if data.has_label_sets:
        from hangtag.training.tasks.multi_label import MultiLabelTask  # imports torchmetrics, which is slow

        return MultiLabelTask(config, data, observer)
    return SingleLabelTask(config, data, run, observer, group, teacher, distances)
