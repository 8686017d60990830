"""Accuracy through the server: every labelled sample exactly once, before any load."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError, TargetError
from hangtag.serving.loadtest.samples import SampleLibrary
from hangtag.serving.loadtest.sut.probe import Description, Probe

IN_FLIGHT = 8
BATCH_SIZE = 50
# LoadGen's rule: a system counts only when it reaches 99 % of the reference accuracy.
REFERENCE_SHARE = 0.99
# As many as the test set has; the accuracy that a model's file tells of is of all of them.
TEST_SET_SIZE = 10_000


@dataclass(frozen=True)
class Accuracy:
    """How many of the samples the target got right; `expected` is what the model's file promises of the same ones."""

    correct: int
    total: int
    expected: float | None = None

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy lies on all images of this kind, with 95 % confidence (Wilson 1927)."""
        z = 1.959963984540054  # The standard normal's 97.5 % quantile.
        n, share = self.total, self.share
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        margin = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return centre - margin, centre + margin

    @property
    def problem(self) -> str | None:
        """Why runs of this target are INVALID: a fast server that answers wrongly has measured something else."""
        if self.expected is None or self.share >= REFERENCE_SHARE * self.expected:
            return None
        return (
            f"its accuracy is off: {self.share:.2%} through the server, where the model's file says {self.expected:.2%}"
        )


@dataclass(frozen=True)
class AccuracyProgress:
    """How far the pass through all samples is, for whoever shows it."""

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
    """Classify every sample of the library once. None when `stop` was set before the end.

    Raises SampleError when the samples have no labels or the model gives no class, TargetError when a call fails.
    """
    target, labels = library.target, library.samples.labels
    if labels is None:
        raise SampleError(
            f"{library.samples.source} have no labels: accuracy needs --samples with an .npz that holds 'labels', "
            "or a folder with Fashion-MNIST's t10k files"
        )
    if description.parameters.get("hangtag.task", "single_label") != "single_label":
        raise SampleError(f"{target.name} gives a set of labels, not one: accuracy does not apply to it")
    read = _read_classified if target.method == "classify" else _read_inferred
    batch_size = min(BATCH_SIZE, description.max_batch_size or 1) if target.method == "infer" else 1

    def judge(order: tuple[range, bytes]) -> tuple[int, int]:
        places, request = order
        if stop.is_set():
            return 0, 0
        answer = probe.call(target, library.feed.method, request, deadline)
        return int(np.count_nonzero(read(answer, target.name) == labels[places.start : places.stop])), len(places)

    correct = done = 0
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for right, answered in pool.map(judge, library.each_once(batch_size)):
            correct, done = correct + right, done + answered
            on_progress(AccuracyProgress(target.name, correct, done, len(labels)))
    if stop.is_set():
        return None
    whole = len(labels) == TEST_SET_SIZE
    return Accuracy(correct, len(labels), description.expected_accuracy if whole else None)


def _read_classified(answer: bytes, name: str) -> npt.NDArray[np.int64]:
    labels = classifier_pb2.ClassifyResponse.FromString(answer).labels
    if not labels:
        raise TargetError(f"{name} answered without a label.")
    return np.array([labels[0].index])


def _read_inferred(answer: bytes, name: str) -> npt.NDArray[np.int64]:
    """The class with the highest score, of each sample."""
    response = pb.ModelInferResponse.FromString(answer)
    scores = {output.name: (output, place) for place, output in enumerate(response.outputs) if len(output.shape) == 2}
    known: list[str] = [output for output in ("probabilities", "logits") if output in scores] or list(scores)
    if not known or (len(known) > 1 and known[0] != "probabilities"):
        raise SampleError(f"{name} has no output with one score a class: accuracy does not apply to it")
    output, place = scores[known[0]]
    shape = list(output.shape)
    if response.raw_output_contents:
        array = tensors.from_raw(output.datatype, shape, response.raw_output_contents[place])
    else:
        array = tensors.from_contents(output.datatype, shape, output.contents)
    return np.asarray(array.argmax(axis=1), np.int64)
