"""Measures the accuracy of a served model by sending every labelled sample once, before any load."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.connection.errors import reading
from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.samples.library import SampleLibrary
from hangtag.serving.loadtest.statistics.intervals import Accuracy
from hangtag.serving.loadtest.sut import Probe, number_in

IN_FLIGHT = 8
BATCH_SIZE = 50


def measure(
    library: SampleLibrary, probe: Probe, deadline: float, stop: threading.Event, on_progress: Callable[[str], None]
) -> Accuracy | None:
    """Classify every sample of the library once, with a deadline in seconds for each call. Returns None if `stop` was
    set before the end.

    Raises:
        LoadTestError: The samples have no labels, the model is not a single-label classifier, or a call fails.
        ClientError: An answer does not follow the protocol.
    """
    description, labels = library.description, library.samples.labels
    target = description.target
    if labels is None:
        raise LoadTestError(
            f"{library.samples.source} have no labels. To measure the accuracy, give --samples a folder that has a "
            "folder of images for each label, or an .npz file with the array 'labels'"
        )
    if description.parameters.get("hangtag.task", "single_label") != "single_label":
        raise LoadTestError(f"{target.name} returns a set of labels, so --accuracy does not apply to {target.name}")
    batch_size = min(BATCH_SIZE, description.max_batch_size or 1) if target.method == "infer" else 1

    def send(request: tuple[range, Message]) -> list[bool]:
        indices, message = request
        if stop.is_set():
            return []
        response = probe.call(library.method, message, deadline)
        with reading(target.name):
            if target.method == "infer":
                classes = _classes(response, target.name).reshape(len(indices))
            else:
                classes = np.array([label.index for label in response.labels[:1]]).reshape(len(indices))
        answered: list[bool] = (classes == labels[indices]).tolist()
        return answered

    right: list[bool] = []
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for answered in pool.map(send, library.each_sample_once(batch_size)):
            right += answered
            share = f"{sum(right) / max(len(right), 1):.2%} right so far"
            on_progress(f"{target.name}, accuracy: {len(right):,} of {len(labels):,} samples, {share}")
    if stop.is_set():
        return None
    expected = number_in(description.parameters, "hangtag.test_accuracy", float)
    comparable = description.parameters.get("hangtag.data_digest", "") in library.samples.data_digests
    return Accuracy(sum(right), len(labels), expected, comparable, np.array(right))


def _classes(message: pb.ModelInferResponse, name: str) -> npt.NDArray[np.int64]:
    """Return the class with the highest score for each sample [samples]."""
    scores = {output.name: index for index, output in enumerate(message.outputs) if len(output.shape) == 2}
    names: list[str] = [output for output in ("probabilities", "logits") if output in scores] or list(scores)
    if not names or (len(names) > 1 and names[0] != "probabilities"):
        raise LoadTestError(f"{name} has no output with one score per class, so --accuracy does not apply to {name}")
    array = tensors.output(message, scores[names[0]])
    return np.asarray(array.argmax(axis=1), np.int64)
