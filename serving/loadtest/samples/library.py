"""Builds and serialises a library of requests before the run, so that the generator only sends bytes."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from PIL import Image

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving import address as server_address
from hangtag.serving.connection.http.http_methods import ROUTES
from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.generator.channels import CLASSIFY, INFER, RequestPool
from hangtag.serving.loadtest.generator.http_channel import as_text
from hangtag.serving.loadtest.plan.load import random_generator
from hangtag.serving.loadtest.plan.scenario import Scenario
from hangtag.serving.loadtest.samples.sources import Samples, generate, has_batch_axis, read_npz, read_pictures
from hangtag.serving.loadtest.sut import Description

# A library has LIBRARY_SIZE different requests, or fewer if they would exceed LIBRARY_BYTES.
LIBRARY_SIZE, LIBRARY_BYTES = 256, 64 << 20


@dataclass(frozen=True)
class SampleLibrary:
    """The requests for one target as gRPC messages, and the samples in them (LoadGen's query sample library)."""

    description: Description
    requests: tuple[Message, ...]
    samples: Samples

    @property
    def method(self) -> str:
        """The full gRPC method name of the calls, even of calls over HTTP."""
        return INFER if self.description.target.method == "infer" else CLASSIFY

    def request_pool(self, deadline: float) -> RequestPool:
        """Serialise the requests for the generator. `deadline` is the deadline of each call in seconds."""
        address, method = self.description.target.address, self.method
        if server_address.is_http(address):
            microseconds = round(deadline * 1e6)  # The request contains the deadline.
            requests = [as_text(address, ROUTES[method].encode(each, microseconds)) for each in self.requests]
        else:
            requests = [each.SerializeToString() for each in self.requests]
        return RequestPool(address, method, tuple(requests))

    def each_sample_once(self, batch_size: int) -> Iterator[tuple[range, Message]]:
        """Yield requests that together contain each sample once, in order, and the sample indices of each request."""
        for start in range(0, len(self.samples), batch_size):
            indices = range(start, min(start + batch_size, len(self.samples)))
            yield indices, _request(self.description, self.samples, np.array(indices, np.int64))


def load(description: Description, scenario: Scenario, path: Path | None = None) -> SampleLibrary:
    """Build the requests for a target. `path` is a folder, a CSV file or an .npz file; None for random values. Raises
    LoadTestError if the samples cannot be read, or if the samples or the batch size do not match the model's inputs."""
    random, batch_size = random_generator(scenario.seed, "samples"), scenario.batch_size
    if description.target.method == "classify" and batch_size != 1:
        raise LoadTestError("Classify accepts one image per call, so --batch-size must be 1")
    if path is None:
        samples = generate(description.metadata, LIBRARY_SIZE * batch_size, batch_size, random, LIBRARY_BYTES)
    elif path.is_dir() or path.suffix.lower() == ".csv":
        samples = read_pictures(description, path)
    else:
        samples = read_npz(description, path, batch_size)
    order = _order(len(samples), batch_size, scenario.scenario == "multi-stream", random)
    requests: list[Message] = []
    total_bytes = 0
    while len(requests) < LIBRARY_SIZE and total_bytes < LIBRARY_BYTES:
        requests.append(_request(description, samples, order[len(requests)]))
        total_bytes += requests[-1].ByteSize()
    return SampleLibrary(description, tuple(requests), samples)


def _order(samples: int, batch_size: int, neighbours: bool, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw indices of samples [requests, batch].

    If `neighbours`, each request has consecutive indices from a random start, modulo the number of samples (source:
    GenerateQueries of MLPerf LoadGen). Otherwise, all indices are repeated, each time in a new random order, so that
    all samples are sent equally often.
    """
    if neighbours:
        return (random.integers(0, samples, (LIBRARY_SIZE, 1)) + np.arange(batch_size)) % samples
    rounds = math.ceil(LIBRARY_SIZE * batch_size / samples)
    order = np.concatenate([random.permutation(samples) for _ in range(rounds)])
    return order[: LIBRARY_SIZE * batch_size].reshape(LIBRARY_SIZE, batch_size)


def _request(description: Description, samples: Samples, indices: npt.NDArray[np.int64]) -> Message:
    target = description.target
    if target.method == "classify":  # The request has a PNG file, which the server decodes.
        array = next(iter(samples.inputs.values()))[indices[0]]
        pixels = np.squeeze(array)
        is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if len(samples.inputs) != 1 or array.dtype != np.uint8 or not is_image:
            raise LoadTestError(
                f"the input of model {target.model!r} is not a grey or coloured image, so Classify cannot call it"
            )
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        return classifier_pb2.ClassifyRequest(
            model_name=target.model, model_version=target.version, encoded=encoded.getvalue(), top_k=1
        )
    request = pb.ModelInferRequest(model_name=target.model, model_version=target.version)
    for tensor in description.metadata.inputs:
        array = samples.inputs[tensor.name][indices]
        if not has_batch_axis(tensor, len(indices)):
            array = array[0]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(tensors.to_raw(array))
    return request
