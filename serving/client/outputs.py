"""The arrays that an inference returns, which also know who computed them."""

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from hangtag.protos import inference_pb2, tensors

Array: TypeAlias = npt.NDArray[Any]

_STAGE = re.compile(r"(.+?);samples=(\d+);queue-ns=(\d+);compute-ns=(\d+);batch-size=(\d+)(?:,|$)")


@dataclass(frozen=True)
class InferenceStage:
    """What one member of a route computed for a request.

    Attributes:
        model: its name, or NAME@VERSION where the route names a version.
        samples: of the request, those that it computed.
        queue_ms: milliseconds in its queue.
        compute_ms: milliseconds of inference.
        batch_size: samples in the batch that it computed, other requests' included.
    """

    model: str
    samples: int
    queue_ms: float
    compute_ms: float
    batch_size: int


class Outputs(dict[str, Array]):
    """An array for each output of the model, by its name, and what the server said of the answer.

    Attributes:
        model: the name of the model, or of the route, as the server answered.
        version: its version.
        answered_by: the models whose answers the samples have: of a route, its members.
        sample_stages: of a route, the stage, from 1, that answered each sample, or one value where all have the same;
            empty for a model, and where more than 1,024 samples differ.
        stages: of a route, what each of its members computed, one after another; empty for a model.
        unsure: how many samples have the answer of a cascade's member that was not sure, since the next one had no
            time or no place for them.
        queue_ms: milliseconds in the server's queues; None from other servers, and in a stream over gRPC.
        compute_ms: milliseconds of inference; None likewise.
        batch_size: samples in the batch that was computed, of a route in that of its first stage; None likewise.

    Example:
        >>> outputs = client.infer("fast-and-accurate", {"image": np.zeros((2, 28, 28), np.uint8)})
        >>> outputs.model, outputs["logits"].shape
        ('fast-and-accurate', (2, 10))
        >>> set(outputs.answered_by) <= {"lstm", "cnn"}
        True
    """

    def __init__(self, response: inference_pb2.ModelInferResponse) -> None:
        """Read a response, with what the server said beside it among its parameters. Raises ValueError where it is not
        of the protocol."""
        super().__init__(
            (output.name, tensors.output(response, index)) for index, output in enumerate(response.outputs)
        )
        values = {key: value.string_param for key, value in response.parameters.items()}
        self.model = response.model_name
        self.version = response.model_version
        self.answered_by: tuple[str, ...] = tuple(values.get("hangtag_model", self.model).split(","))
        numbers = values.get("hangtag_stage", "").split(",")
        self.sample_stages: tuple[int, ...] = tuple(int(number) for number in numbers if number.isdigit())
        self.stages: tuple[InferenceStage, ...] = tuple(
            InferenceStage(model, int(samples), int(queue_ns) / 1e6, int(compute_ns) / 1e6, int(batch_size))
            for model, samples, queue_ns, compute_ns, batch_size in _STAGE.findall(values.get("hangtag_stages", ""))
        )
        self.unsure = int(values.get("hangtag_unsure", 0))
        self.queue_ms = _milliseconds(values.get("hangtag_queue_ns"))
        self.compute_ms = _milliseconds(values.get("hangtag_compute_ns"))
        size = values.get("hangtag_batch_size")
        self.batch_size = None if size is None else int(size)


def _milliseconds(nanoseconds: str | None) -> float | None:
    return None if nanoseconds is None else int(nanoseconds) / 1e6
