"""A library of requests, serialised before the run so that the generator only hands bytes to gRPC."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.generator.messages import CLASSIFY, INFER, RequestPool
from hangtag.serving.loadtest.plan.schedule import random_generator
from hangtag.serving.loadtest.plan.target import Target
from hangtag.serving.loadtest.samples.arrays import Samples, has_batch_axis
from hangtag.serving.loadtest.samples.image_folder import read_folder
from hangtag.serving.loadtest.samples.npz import read_npz
from hangtag.serving.loadtest.samples.random_values import generate

# How many different requests a library holds, and how many bytes they take at most.
LIBRARY_SIZE = 256
LIBRARY_BYTES = 64 << 20

# Places in the samples.
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleLibrary:
    """Serialised requests for one target, and the samples that they were made of."""

    target: Target
    requests: tuple[bytes, ...]
    samples: Samples
    metadata: pb.ModelMetadataResponse = field(repr=False)

    @property
    def feed(self) -> RequestPool:
        """What the generator needs of it."""
        return RequestPool(self.target.address, INFER if self.target.method == "infer" else CLASSIFY, self.requests)

    def answering_version(self, answer: bytes) -> str:
        """The model version that an answer to one of the requests is of; empty where the server does not say."""
        if self.target.method == "classify":
            return classifier_pb2.ClassifyResponse.FromString(answer).model_version
        return pb.ModelInferResponse.FromString(answer).model_version

    def each_once(self, batch_size: int) -> Iterator[tuple[range, bytes]]:
        """A request for every sample, each exactly once and in order, with the samples' places."""
        for start in range(0, len(self.samples), batch_size):
            places = range(start, min(start + batch_size, len(self.samples)))
            yield places, _serialise(self.target, self.metadata, self.samples, np.array(places, np.int64))


def load(
    target: Target,
    metadata: pb.ModelMetadataResponse,
    batch_size: int,
    seed: int,
    path: Path | None = None,
    *,
    neighbours: bool = False,
    size: int = LIBRARY_SIZE,
) -> SampleLibrary:
    """`size` requests (or LIBRARY_BYTES of them) of `batch_size` samples for a target: from a folder or an .npz file,
    else random from its metadata. A request's samples are drawn in shuffled rounds, or are `neighbours`: those from a
    place drawn at random on.

    Raises SampleError when the samples cannot be read or do not fit the model's input, when the model takes no batch of
    this size, or when its shapes leave a size open that is not the batch's.
    """
    random = random_generator(seed, "samples")
    if target.method == "classify" and batch_size != 1:
        raise SampleError("Classify takes one image a call: --batch-size has to be 1")
    if path is None:
        samples = generate(metadata, size * batch_size, batch_size, random, LIBRARY_BYTES)
    elif path.is_dir():
        samples = read_folder(metadata, path)
    else:
        samples = read_npz(metadata, path, batch_size)
    order = (_neighbours if neighbours else _rounds)(len(samples), batch_size, size, random)
    requests: list[bytes] = []
    taken = 0
    while len(requests) < size and taken < LIBRARY_BYTES:
        requests.append(_serialise(target, metadata, samples, order[len(requests)]))
        taken += len(requests[-1])
    return SampleLibrary(target, tuple(requests), samples, metadata)


def _rounds(samples: int, batch_size: int, size: int, random: np.random.Generator) -> Places:
    """Places [requests, batch] in whole rounds through the samples, each in an order of its own: all are sent about as
    often."""
    rounds = math.ceil(size * batch_size / samples)
    order = np.concatenate([random.permutation(samples) for _ in range(rounds)])
    return order[: size * batch_size].reshape(size, batch_size)


def _neighbours(samples: int, batch_size: int, size: int, random: np.random.Generator) -> Places:
    """Places [requests, batch]: each request's follow one drawn at random, and after the last comes the first. Source:
    MLPerf LoadGen's GenerateQueries for its multi-stream scenario."""
    return (random.integers(0, samples, (size, 1)) + np.arange(batch_size)) % samples


def _serialise(target: Target, metadata: pb.ModelMetadataResponse, samples: Samples, chosen: Places) -> bytes:
    if target.method == "classify":
        return _classify(target, metadata, samples, int(chosen[0]))
    request = pb.ModelInferRequest(model_name=target.model)
    for tensor in metadata.inputs:
        array = samples.inputs[tensor.name][chosen]
        if not has_batch_axis(tensor, len(chosen)):
            array = array[0]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(tensors.to_raw(array))
    return request.SerializeToString()


def _classify(target: Target, metadata: pb.ModelMetadataResponse, samples: Samples, place: int) -> bytes:
    """An image as a person sends it: a PNG file, which the server decodes."""
    array = next(iter(samples.inputs.values()))[place]
    pixels = np.squeeze(array)
    if len(samples.inputs) != 1 or array.dtype != np.uint8 or pixels.ndim != 2:
        raise SampleError(f"model {metadata.name!r} takes no grey image, which is all that Classify sends")
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    request = classifier_pb2.ClassifyRequest(model_name=target.model, encoded=encoded.getvalue(), top_k=1)
    return request.SerializeToString()
