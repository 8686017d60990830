"""What is evaluated: something that answers images, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hangtag.evaluation.errors import EvaluationError

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
Report = Callable[[int], None]
"""Called with the number of images that were answered since the last call."""

BATCH_SIZE = 64
"""Images asked about at once: what `hangtag serve` takes at most unless told otherwise."""


class Subject(ABC):
    """A model that can be asked. A context manager; outside of it the subject cannot be used."""

    kind: str  # "run", "onnx" or "server"
    name: str  # as a person would call it
    task: str  # "single_label" or "multi_label"
    details: Mapping[str, str]  # what exactly answers: version, file, address
    labels: tuple[str, ...] = ()  # empty where the model does not say
    dataset: str | None = None  # what it learned from, where that is known
    threshold: float | None = None  # for several labels: how probable one must be to be in the set, where that is known

    @abstractmethod
    def answer(self, images: Array, report: Report) -> Outputs:
        """Every output of the model for uint8 images [n, height, width], joined along the first axis.

        Raises EvaluationError.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what the subject holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def batches(images: Array, size: int) -> list[Array]:
    """The images in parts of at most ``size``, in order."""
    return [images[at : at + size] for at in range(0, len(images), size)]


def joined(outputs: list[Outputs]) -> Outputs:
    """The outputs of batches as those of one."""
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def require_labels(subject: Subject, labels: tuple[str, ...]) -> None:
    """Raises EvaluationError for a model that says that it has other labels than the data set."""
    if subject.labels and subject.labels != labels:
        raise EvaluationError(
            f"{subject.name} has the labels {', '.join(subject.labels)}; "
            f"the data set's are {', '.join(labels)}, in this order."
        )
