"""Measures accuracy through the server: sends every labelled sample exactly once, before any load."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.connection.errors import reading
from hangtag.serving.loadtest.errors import SampleError, TargetError
from hangtag.serving.loadtest.samples import SampleLibrary
from hangtag.serving.loadtest.sut.description import Description
from hangtag.serving.loadtest.sut.probe import Probe

IN_FLIGHT = 8
BATCH_SIZE = 50
# LoadGen's rule: a system counts only when it reaches 99 % of the reference accuracy.
REFERENCE_SHARE = 0.99


@dataclass(frozen=True)
class Accuracy:
    """How many samples the target classified correctly; `expected` is the accuracy on its test set that the model's
    file records."""

    correct: int
    total: int
    expected: float | None = None

    @property
    def share(self) -> float:
        """The accuracy, between 0 and 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy on all images of this kind (Wilson 1927)."""
        z = 1.959963984540054  # The standard normal's 97.5 % quantile.
        n, share = self.total, self.share
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        margin = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return centre - margin, centre + margin

    @property
    def problem(self) -> str | None:
        """Why runs of this target are INVALID: the speed of wrong answers is not the model's.

        Few samples can be wrong by chance, so the whole interval has to be below what is expected.
        """
        if self.expected is None or self.interval[1] >= REFERENCE_SHARE * self.expected:
            return None
        return (
            f"its accuracy is off: {self.share:.2%} of {self.total:,} samples through the server, where the model's "
            f"file says {self.expected:.2%} of its test set"
        )


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
        ClientError: When an answer is not of the protocol.
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

    def send(request: tuple[range, bytes]) -> tuple[int, int]:
        indices, message = request
        if stop.is_set():
            return 0, 0
        response = probe.call(target, library.method, message, deadline)
        expected = labels[indices.start : indices.stop]
        with reading(target.name):
            classes = read_classes(response, target.name).reshape(len(indices))
        return int(np.count_nonzero(classes == expected)), len(indices)

    correct = done = 0
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for newly_correct, newly_done in pool.map(send, library.each_sample_once(batch_size)):
            correct, done = correct + newly_correct, done + newly_done
            on_progress(AccuracyProgress(target.name, correct, done, len(labels)))
    if stop.is_set():
        return None
    return Accuracy(correct, len(labels), description.expected_accuracy)


def _classes_of_classify(response: bytes, name: str) -> npt.NDArray[np.int64]:
    labels = classifier_pb2.ClassifyResponse.FromString(response).labels
    if not labels:
        raise TargetError(f"{name} answered without a label.")
    return np.array([labels[0].index])


def _classes_of_infer(response: bytes, name: str) -> npt.NDArray[np.int64]:
    """The class with the highest score, for each sample [samples]."""
    message = pb.ModelInferResponse.FromString(response)
    scores = {output.name: index for index, output in enumerate(message.outputs) if len(output.shape) == 2}
    names: list[str] = [output for output in ("probabilities", "logits") if output in scores] or list(scores)
    if not names or (len(names) > 1 and names[0] != "probabilities"):
        raise SampleError(f"{name} has no output with one score a class: accuracy does not apply to it")
    array = tensors.output(message, scores[names[0]])
    return np.asarray(array.argmax(axis=1), np.int64)
