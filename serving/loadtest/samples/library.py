"""A library of requests, serialised before the run, so that the generator only passes bytes on."""

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.generator.channels.http_text import message_as_text
from hangtag.serving.loadtest.generator.messages import CLASSIFY, INFER, RequestPool
from hangtag.serving.loadtest.plan.schedule import random_generator
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples.arrays import Samples, has_batch_axis
from hangtag.serving.loadtest.samples.image_folder import read_folder
from hangtag.serving.loadtest.samples.npz import read_npz
from hangtag.serving.loadtest.samples.random_values import generate

# The number of different requests in a library, and the bytes that they may take.
LIBRARY_SIZE = 256
LIBRARY_BYTES = 64 << 20

Indices = npt.NDArray[np.int64]  # Of samples.


@dataclass(frozen=True)
class SampleLibrary:
    """Serialised requests for one target, as gRPC messages, and the samples in them. LoadGen: query sample library."""

    target: Target
    requests: tuple[bytes, ...]
    samples: Samples
    metadata: pb.ModelMetadataResponse = field(repr=False)

    @property
    def method(self) -> str:
        """The full gRPC method name of the calls, for HTTP too."""
        return INFER if self.target.method == "infer" else CLASSIFY

    def request_pool(self, deadline: float) -> RequestPool:
        """The requests as the generator takes them, for calls with a deadline in seconds."""
        address, requests = self.target.address, self.requests
        if self.target.protocol == "HTTP":
            requests = tuple(message_as_text(address, self.method, request, deadline) for request in requests)
        return RequestPool(address, self.method, requests)

    def answering_version(self, response: bytes) -> str:
        """The model version in the response to one of the requests; empty where the server does not say."""
        if self.target.method == "classify":
            return classifier_pb2.ClassifyResponse.FromString(response).model_version
        return pb.ModelInferResponse.FromString(response).model_version

    def each_sample_once(self, batch_size: int) -> Iterator[tuple[range, bytes]]:
        """Requests that hold every sample exactly once, in order, each with the indices of its samples."""
        for start in range(0, len(self.samples), batch_size):
            indices = range(start, min(start + batch_size, len(self.samples)))
            yield indices, _serialise(self.target, self.metadata, self.samples, np.array(indices, np.int64))


def load(
    target: Target,
    metadata: pb.ModelMetadataResponse,
    batch_size: int,
    seed: int,
    path: Path | None = None,
    parameters: Mapping[str, str] | None = None,
    *,
    neighbours: bool = False,
    size: int = LIBRARY_SIZE,
) -> SampleLibrary:
    """Build the requests for a target.

    Args:
        target: The target.
        metadata: The model's metadata from its server.
        batch_size: Samples per request.
        seed: Seeds the values and the order of the samples.
        path: A folder or an .npz file; without it, samples are random values.
        parameters: Of the model's configuration: how pictures are prepared for it, and its labels.
        neighbours: A request holds consecutive samples from a random index; otherwise samples are drawn in shuffled
            rounds through all of them.
        size: The number of requests; fewer where they would exceed LIBRARY_BYTES.

    Raises:
        SampleError: When the samples cannot be read or do not fit the model's inputs, the model takes no batch of this
            size, or an axis of its inputs other than the batch's has no fixed size.
    """
    random = random_generator(seed, "samples")
    if target.method == "classify" and batch_size != 1:
        raise SampleError("Classify takes one image a call: --batch-size has to be 1")
    if path is None:
        samples = generate(metadata, size * batch_size, batch_size, random, LIBRARY_BYTES)
    elif path.is_dir():
        samples = read_folder(metadata, path, parameters or {})
    else:
        samples = read_npz(metadata, path, batch_size, parameters or {})
    order = (_neighbours if neighbours else _rounds)(len(samples), batch_size, size, random)
    requests: list[bytes] = []
    total_bytes = 0
    while len(requests) < size and total_bytes < LIBRARY_BYTES:
        requests.append(_serialise(target, metadata, samples, order[len(requests)]))
        total_bytes += len(requests[-1])
    return SampleLibrary(target, tuple(requests), samples, metadata)


def _rounds(samples: int, batch_size: int, size: int, random: np.random.Generator) -> Indices:
    """Indices [requests, batch] in whole shuffled rounds through the samples, so that all are sent equally often."""
    rounds = math.ceil(size * batch_size / samples)
    order = np.concatenate([random.permutation(samples) for _ in range(rounds)])
    return order[: size * batch_size].reshape(size, batch_size)


def _neighbours(samples: int, batch_size: int, size: int, random: np.random.Generator) -> Indices:
    """Indices [requests, batch]: each request's are consecutive from a random one, and wrap around at the end.

    Source: MLPerf LoadGen's GenerateQueries for its multi-stream scenario.
    """
    return (random.integers(0, samples, (size, 1)) + np.arange(batch_size)) % samples


def _serialise(target: Target, metadata: pb.ModelMetadataResponse, samples: Samples, indices: Indices) -> bytes:
    if target.method == "classify":
        return _serialise_classify(target, metadata, samples, int(indices[0]))
    request = pb.ModelInferRequest(model_name=target.model, model_version=target.version)
    for tensor in metadata.inputs:
        array = samples.inputs[tensor.name][indices]
        if not has_batch_axis(tensor, len(indices)):
            array = array[0]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(tensors.to_raw(array))
    return request.SerializeToString()


def _serialise_classify(target: Target, metadata: pb.ModelMetadataResponse, samples: Samples, index: int) -> bytes:
    """A ClassifyRequest with a PNG file, which the server decodes."""
    array = next(iter(samples.inputs.values()))[index]
    pixels = np.squeeze(array)
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if len(samples.inputs) != 1 or array.dtype != np.uint8 or not is_image:
        raise SampleError(f"model {metadata.name!r} takes no grey or coloured image, which is all that Classify sends")
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    request = classifier_pb2.ClassifyRequest(
        model_name=target.model, model_version=target.version, encoded=encoded.getvalue(), top_k=1
    )
    return request.SerializeToString()
