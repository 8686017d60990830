"""Reads samples from a folder: image files, or a data set in Fashion-MNIST's IDX files."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, sample_shape

Pixels = npt.NDArray[np.uint8]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def read_folder(metadata: pb.ModelMetadataResponse, folder: Path) -> Samples:
    """Read the folder's t10k files, with labels, or else its image files, without.

    Images smaller than the model's input are tiled on black.

    Raises:
        SampleError: When the images cannot be read or do not fit the model.
    """
    height, width = _input_size(metadata)
    labels = None
    idx_images = _idx_file(folder, IDX_IMAGES)
    if idx_images is not None:
        images = _read_idx(idx_images, 3)
        idx_labels = _idx_file(folder, IDX_LABELS)
        labels = _read_idx(idx_labels, 1).astype(np.int64) if idx_labels is not None else None
        source = f"{len(images):,} test images from {folder}"
        names = [str(idx_images)] * len(images)
    else:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise SampleError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {IDX_IMAGES}(.gz)")
        grey = [_read_grey(file) for file in files]
        names = [str(file) for file in files]
        for name, image in zip(names, grey, strict=True):
            if image.shape != grey[0].shape:
                raise _misfit(metadata.name, name, image, height, width)
        images, source = np.stack(grey), f"{len(files)} images from {folder}"
    image_height, image_width = images.shape[1:]
    rows, columns = height // image_height, width // image_width
    if (image_height, image_width) != (height, width):
        if rows * columns < 2:
            raise _misfit(metadata.name, names[0], images[0], height, width)
        images = _tiled(images, height, width)
        source += f", {rows * columns} side by side in a picture of {width}x{height}"
        labels = None  # The labels are the parts', not the tiled image's.
    shape = sample_shape(metadata.name, metadata.inputs[0], 1)
    return Samples({metadata.inputs[0].name: images.reshape(-1, *shape)}, source, labels)


def _tiled(images: Pixels, height: int, width: int) -> Pixels:
    """Tile images [n, rows, columns] to [n, height, width]: result i starts with image i, then those after it."""
    count, image_height, image_width = images.shape
    rows, columns = height // image_height, width // image_width
    indices = (np.arange(count)[:, None] + np.arange(rows * columns)) % count
    tiles = images[indices].reshape(-1, rows, columns, image_height, image_width).swapaxes(2, 3)
    tiled_height, tiled_width = rows * image_height, columns * image_width
    top, left = (height - tiled_height) // 2, (width - tiled_width) // 2
    pixels = np.zeros((count, height, width), np.uint8)
    pixels[:, top : top + tiled_height, left : left + tiled_width] = tiles.reshape(-1, tiled_height, tiled_width)
    return pixels


def _input_size(metadata: pb.ModelMetadataResponse) -> tuple[int, int]:
    """Height and width of the model's input image."""
    tensor = metadata.inputs[0] if len(metadata.inputs) == 1 else None
    size = [length for length in tensor.shape[1:] if length != 1] if tensor else []
    if tensor is None or tensor.datatype != "UINT8" or len(size) != 2 or min(size) < 1:
        inputs = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
        raise SampleError(
            f"model {metadata.name!r} takes no grey images (UINT8 [batch, height, width]) but {inputs}: "
            "leave out --samples to send random values"
        )
    return size[0], size[1]


def _misfit(model: str, name: str, image: Pixels, height: int, width: int) -> SampleError:
    return SampleError(
        f"{name} has {image.shape[1]}x{image.shape[0]} pixels; model {model!r} takes {width}x{height}, "
        "or smaller images, all of one size, of which at least two fit in"
    )


def _read_grey(file: Path) -> Pixels:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise SampleError(f"{file} cannot be read as an image: {error}") from error


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _read_idx(file: Path, dimensions: int) -> Pixels:
    """Read an IDX file of bytes.

    The format: two zeros, 8 for unsigned bytes, the number of dimensions, each length in four bytes (big-endian), the
    values. Source: yann.lecun.com/exdb/mnist.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        shape = np.frombuffer(data, ">u4", dimensions, 4).astype(int).tolist()
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    except (OSError, EOFError, ValueError) as error:
        raise SampleError(f"{file} cannot be read as an IDX file: {error}") from error
    if data[:4] != bytes((0, 0, 8, dimensions)) or values.size != np.prod(shape):
        raise SampleError(f"{file} cannot be read as an IDX file: its header does not fit its contents")
    return values.reshape(shape)
