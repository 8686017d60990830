"""Defines the interface to a model that is evaluated in PyTorch, in ONNX Runtime or on a server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.errors import UserError
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]

BATCH_SIZE = 64
"""The number of images in a batch, equal to the default max_batch_size of `hangtag serve`."""


class EvaluationError(UserError):
    """The model cannot be loaded or called, or does not return the outputs of a classifier for the data set."""


def sentence(error: Exception) -> str:
    """Return an error's message with exactly one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


class Subject(ABC):
    """A model to evaluate."""

    kind: str  # "run", "onnx" or "server"
    name: str  # for messages and titles
    task: str  # "single_label" or "multi_label"
    details: dict[str, str]  # texts that identify the model: version, file, address
    labels: tuple[str, ...] = ()  # empty if the model does not name its labels
    config: Mapping[str, Any] | None = None  # the config.json of the model's run, if known
    image: ImageSpec | None = None  # how a picture is turned into the model's input, if known
    fit_remedy: str = "Import its ONNX file with --preprocessing."  # advice to the user if ``image`` is None
    threshold: float | None = None  # multi-label: the lowest probability at which a label is in the set, if known

    @property
    def dataset(self) -> str | None:
        """The data set on which the model was trained; None if unknown. Old configs do not name Fashion-MNIST."""
        return None if self.config is None else str(self.config.get("dataset", "fashion-mnist"))

    def answer(self, images: Array, progress: Callable[[int], object] = str) -> Outputs:
        """Run the model on all images, uint8 [n, height, width] or [n, height, width, 3]. Return the outputs by name.

        After each batch, ``progress`` is called with the number of images in the batch.

        Raises:
            EvaluationError: the model returned an error for the images.
        """
        answers: list[Outputs] = []
        for answer in self._answers(images):
            progress(len(next(iter(answer.values()))))
            answers.append(answer)
        return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}

    @abstractmethod
    def _answers(self, images: Array) -> Iterable[Outputs]:
        """Yield the outputs of the images in batches, in order."""


def batches(images: Array, size: int) -> list[Array]:
    """Split the images into batches of at most ``size``, in order."""
    return [images[at : at + size] for at in range(0, len(images), size)]


def require_labels(subject: Subject, labels: tuple[str, ...]) -> None:
    """Raise EvaluationError if the model has labels other than the data set's labels."""
    if subject.labels and subject.labels != labels:
        raise EvaluationError(
            f"{subject.name} has the labels {named(subject.labels)}, but the data set has the labels {named(labels)}, "
            "in this order."
        )
