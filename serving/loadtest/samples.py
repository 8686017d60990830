"""What is sent: a library of requests, serialised before the run so that the generator only hands bytes to gRPC."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from protos import inference_pb2 as pb
from protos import tensors
from serving.loadtest.errors import SampleError
from serving.loadtest.schedule import generator_for

# How many different requests a library holds, and how many bytes they take at most.
LIBRARY_SIZE = 256
LIBRARY_BYTES = 64 << 20


@dataclass(frozen=True)
class SampleLibrary:
    """Serialised ModelInferRequests for one model, and where their samples come from, for the report."""

    model: str
    requests: tuple[bytes, ...]
    source: str


def load(metadata: pb.ModelMetadataResponse, batch_size: int, seed: int, images: Path | None = None) -> SampleLibrary:
    """Requests of `batch_size` samples for a model: from a folder of images, else random from its metadata.

    Raises SampleError when the images cannot be read or do not fit the model's input, when the model takes no batch of
    this size, or when its shapes leave a size open that is not the batch's.
    """
    random = generator_for(seed, "samples")
    if images is not None:
        pixels, source = _read_images(metadata, images)
        # Whole rounds through the folder, each in an order of its own: every image is sent about as often.
        rounds = math.ceil(LIBRARY_SIZE * batch_size / len(pixels))
        order = np.concatenate([random.permutation(len(pixels)) for _ in range(rounds)])
        shape = _shape(metadata.name, metadata.inputs[0], batch_size)
        requests = [
            _request(metadata, [pixels[order[start : start + batch_size]].reshape(shape)])
            for start in range(0, LIBRARY_SIZE * batch_size, batch_size)
        ]
        return SampleLibrary(metadata.name, tuple(requests), source)
    requests = []
    size = 0
    while len(requests) < LIBRARY_SIZE and size < LIBRARY_BYTES:
        arrays = [_random(metadata.name, tensor, batch_size, random) for tensor in metadata.inputs]
        requests.append(_request(metadata, arrays))
        size += len(requests[-1])
    inputs = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
    return SampleLibrary(metadata.name, tuple(requests), f"random values for {inputs}")


def _read_images(metadata: pb.ModelMetadataResponse, folder: Path) -> tuple[npt.NDArray[np.uint8], str]:
    """The folder's PNG files as [images, height, width], of the size that the model's only input asks for, and where
    they come from. Smaller ones are laid side by side on black, as many as a picture of that size holds."""
    height, width = _picture_size(metadata)
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SampleError(f"{folder} holds no .png files")
    read = [_read_grey(file) for file in files]
    high, wide = read[0].shape
    rows, columns = height // high, width // wide
    fits = (high, wide) == (height, width) or rows * columns > 1
    for file, grey in zip(files, read, strict=True):
        if not fits or grey.shape != (high, wide):
            raise SampleError(
                f"{file} has {grey.shape[1]}x{grey.shape[0]} pixels; model {metadata.name!r} takes {width}x{height}, "
                "or smaller images, all of one size, of which at least two fit in"
            )
    # [images, rows * columns]: each picture begins with another image, and goes on with those after it.
    places = (np.arange(len(read))[:, None] + np.arange(rows * columns)) % len(read)
    tiled = np.stack(read)[places].reshape(-1, rows, columns, high, wide).swapaxes(2, 3)
    top, left = (height - rows * high) // 2, (width - columns * wide) // 2
    pixels = np.zeros((len(read), height, width), np.uint8)
    pixels[:, top : top + rows * high, left : left + columns * wide] = tiled.reshape(-1, rows * high, columns * wide)
    together = f", {rows * columns} side by side in a picture of {width}x{height}" if rows * columns > 1 else ""
    return pixels, f"{len(files)} images from {folder}{together}"


def _picture_size(metadata: pb.ModelMetadataResponse) -> tuple[int, int]:
    """Height and width of the pictures that the model takes."""
    tensor = metadata.inputs[0] if len(metadata.inputs) == 1 else None
    size = [length for length in tensor.shape[1:] if length != 1] if tensor else []
    if tensor is None or tensor.datatype != "UINT8" or len(size) != 2 or min(size) < 1:
        inputs = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
        raise SampleError(
            f"model {metadata.name!r} takes no grey images (UINT8 [batch, height, width]) but {inputs}: "
            "leave out --images to send random values"
        )
    return size[0], size[1]


def _read_grey(file: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise SampleError(f"{file} cannot be read as an image: {error}") from error


def _shape(model: str, tensor: pb.ModelMetadataResponse.TensorMetadata, batch_size: int) -> list[int]:
    shape = list(tensor.shape)
    if shape and shape[0] < 0:
        shape[0] = batch_size
    elif batch_size != 1 and shape[:1] != [batch_size]:
        raise SampleError(f"input {tensor.name!r} of {model!r} has the fixed shape {shape}: --batch-size has to be 1")
    if any(length < 0 for length in shape):
        raise SampleError(
            f"input {tensor.name!r} of {model!r} has the shape {list(tensor.shape)}: values can be made up only where "
            "every size but the first is fixed"
        )
    return shape


def _random(
    model: str, tensor: pb.ModelMetadataResponse.TensorMetadata, batch_size: int, random: np.random.Generator
) -> tensors.Array:
    datatype, shape = tensor.datatype, _shape(model, tensor, batch_size)
    if datatype == "BYTES":
        words = [random.bytes(6).hex().encode() for _ in range(math.prod(shape))]
        return np.array(words, np.object_).reshape(shape)
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise SampleError(f"values of datatype {datatype!r} cannot be made up")
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Wider integers are mostly indices, for example into a vocabulary: small ones are the most likely to be valid.
    return random.integers(0, 256 if datatype == "UINT8" else 128, shape).astype(dtype)


def _request(metadata: pb.ModelMetadataResponse, arrays: list[tensors.Array]) -> bytes:
    request = pb.ModelInferRequest(model_name=metadata.name)
    for tensor, array in zip(metadata.inputs, arrays, strict=True):
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(tensors.to_raw(array))
    return request.SerializeToString()
