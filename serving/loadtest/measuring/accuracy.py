"""Measure accuracy through the server, by sending every labelled sample exactly once, before any load."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection.errors import reading
from hangtag.serving.loadtest.errors import SampleError, TargetError
from hangtag.serving.loadtest.record import shown, stored, unstored
from hangtag.serving.loadtest.samples.library import SampleLibrary
from hangtag.serving.loadtest.statistics.intervals import Interval, wilson
from hangtag.serving.loadtest.sut import Description, Probe

IN_FLIGHT = 8
BATCH_SIZE = 50
# LoadGen's rule: a system counts only when it reaches 99 % of the reference accuracy.
REFERENCE_SHARE = 0.99


@dataclass(frozen=True)
class Accuracy:
    """The accuracy over all labelled samples, each sent once. low and high are the ends of the 95 % interval."""

    correct: int = stored()
    total: int = stored()
    expected: float | None = stored("The accuracy on its test set that the model's file records.", default=None)
    comparable: bool = stored(
        "Whether these samples are that test set, so that a lower accuracy makes the test not valid.", default=False
    )
    # Whether each sample was classified correctly [samples].
    right: Any = unstored(default=None, repr=False, compare=False)

    @shown("accuracy")
    def share(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.total

    @shown()
    def low(self) -> float:
        """Lower end of the 95 % confidence interval for all images of this kind."""
        return self.interval.low

    @shown()
    def high(self) -> float:
        """Upper end of the same interval."""
        return self.interval.high

    @property
    def interval(self) -> Interval:
        """The accuracy with its 95 % confidence interval for all images of this kind."""
        return wilson(self.correct, self.total)

    @property
    def invalid(self) -> str | None:
        """Why runs of this target are INVALID: the speed of wrong answers says nothing about the model.

        A few samples may be wrong by chance, so the runs are INVALID only if the whole interval is below the expected
        accuracy.
        """
        if self.expected is None or not self.comparable or self.interval.high >= REFERENCE_SHARE * self.expected:
            return None
        return (
            f"its accuracy is off: {self.share:.2%} of {self.total:,} samples are right through the server, but the "
            f"model's file says {self.expected:.2%} of the same samples"
        )

    @property
    def note(self) -> str:
        """Why the accuracy is not compared with the accuracy in the model's file; empty if both are compared."""
        if self.expected is None or self.comparable:
            return ""
        return f"Its file records {self.expected:.2%} for other samples, so the two figures are not compared."


@dataclass(frozen=True)
class AccuracyProgress:
    """The progress of the pass through all samples."""

    target: str
    correct: int
    done: int  # Samples answered so far.
    total: int


def measure(
    library: SampleLibrary,
    description: Description,
    probe: Probe,
    deadline: float,
    stop: threading.Event,
    on_progress: Callable[[AccuracyProgress], None],
) -> Accuracy | None:
    """Classify every sample of the library once, with a deadline in seconds for each call.

    Returns None when `stop` was set before the end.

    Raises:
        SampleError: When the samples have no labels, or the model does not predict one class.
        TargetError: When a call fails.
        ClientError: When an answer does not follow the protocol.
    """
    target, labels = library.target, library.samples.labels
    if labels is None:
        raise SampleError(
            f"{library.samples.source} have no labels: accuracy needs --samples with a folder that has a folder of "
            "images for each label, or with an .npz file that holds 'labels'"
        )
    if description.parameters.get("hangtag.task", "single_label") != "single_label":
        raise SampleError(f"{target.name} gives a set of labels, not one: accuracy does not apply to it")
    read_classes = _classes_of_classify if target.method == "classify" else _classes_of_infer
    batch_size = min(BATCH_SIZE, description.max_batch_size or 1) if target.method == "infer" else 1

    right = np.zeros(len(labels), np.bool_)

    def send(request: tuple[range, Message]) -> tuple[int, int]:
        indices, message = request
        if stop.is_set():
            return 0, 0
        response = probe.call(target, library.method, message, deadline)
        expected = labels[indices.start : indices.stop]
        with reading(target.name):
            classes = read_classes(response, target.name).reshape(len(indices))
        right[indices.start : indices.stop] = classes == expected
        return int(np.count_nonzero(classes == expected)), len(indices)

    correct = done = 0
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for newly_correct, newly_done in pool.map(send, library.each_sample_once(batch_size)):
            correct, done = correct + newly_correct, done + newly_done
            on_progress(AccuracyProgress(target.name, correct, done, len(labels)))
    if stop.is_set():
        return None
    comparable = description.data_digest in library.samples.data_digests
    return Accuracy(correct, len(labels), description.expected_accuracy, comparable, right)


def _classes_of_classify(response: classifier_pb2.ClassifyResponse, name: str) -> npt.NDArray[np.int64]:
    if not response.labels:
        raise TargetError(f"{name} answered without a label.")
    return np.array([response.labels[0].index])


def _classes_of_infer(message: pb.ModelInferResponse, name: str) -> npt.NDArray[np.int64]:
    """The class with the highest score, for each sample [samples]."""
    scores = {output.name: index for index, output in enumerate(message.outputs) if len(output.shape) == 2}
    names: list[str] = [output for output in ("probabilities", "logits") if output in scores] or list(scores)
    if not names or (len(names) > 1 and names[0] != "probabilities"):
        raise SampleError(f"{name} has no output with one score a class: accuracy does not apply to it")
    array = tensors.output(message, scores[names[0]])
    return np.asarray(array.argmax(axis=1), np.int64)
