"""Defines the interface to a model that is evaluated in PyTorch, in ONNX Runtime or on a server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hangtag.errors import UserError
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Progress = Callable[[int], object]
"""A function that is called with the number of images that were answered since its last call."""

BATCH_SIZE = 64
"""The number of images in a batch, equal to the default max_batch_size of `hangtag serve`."""


class EvaluationError(UserError):
    """The model cannot be loaded or called, or does not return the outputs of a classifier for the data set."""


def sentence(error: Exception) -> str:
    """Return an error's message with exactly one full stop at its end."""
    return f"{str(error).rstrip('. ')}."


class Subject(ABC):
    """A model to evaluate. Use it in a ``with`` block, which closes it."""

    kind: str  # "run", "onnx" or "server"
    name: str  # for messages and titles
    task: str  # "single_label" or "multi_label"
    details: Mapping[str, str]  # texts that identify the model: version, file, address
    labels: tuple[str, ...] = ()  # empty if the model does not name its labels
    config: Mapping[str, Any] | None = None  # the config.json of the model's run, if known
    image: ImageSpec | None = None  # how a picture is turned into the model's input, if known
    fit_remedy: str = "Import its ONNX file with --preprocessing."  # advice to the user if ``image`` is None
    threshold: float | None = None  # multi-label: the lowest probability at which a label is in the set, if known

    @property
    def dataset(self) -> str | None:
        """The data set on which the model was trained; None if unknown. Old configs do not name Fashion-MNIST."""
        return None if self.config is None else str(self.config.get("dataset", "fashion-mnist"))

    @abstractmethod
    def answer(self, images: Array, progress: Progress = str) -> Outputs:
        """Run the model on all images, in batches.

        Args:
            images: uint8 [n, height, width] or [n, height, width, 3].
            progress: a function that is called after each batch. The default has no effect.

        Returns:
            The outputs by name. Each output has n rows.

        Raises:
            EvaluationError: the model returned an error for the images.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - only a served model has something to close
        """Close the connection to the model's server, if there is one."""


def batches(images: Array, size: int) -> list[Array]:
    """Split the images into batches of at most ``size``, in order."""
    return [images[at : at + size] for at in range(0, len(images), size)]


def concatenated(outputs: list[Outputs]) -> Outputs:
    """Concatenate the outputs of batches along the first axis."""
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def require_labels(subject: Subject, labels: tuple[str, ...]) -> None:
    """Check that the model's labels are equal to the data set's labels. A model without labels is accepted.

    Raises:
        EvaluationError: the labels differ.
    """
    if subject.labels and subject.labels != labels:
        raise EvaluationError(
            f"{subject.name} has the labels {named(subject.labels)}, but the data set has the labels {named(labels)}, "
            "in this order."
        )
