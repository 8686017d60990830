"""Samples from pictures: a folder of image files, or a data set in Fashion-MNIST's own files."""

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
    """The folder's test images (Fashion-MNIST's t10k files, with labels), or else its image files, without.

    Smaller pictures than the model takes are laid side by side on black. Raises SampleError when they cannot be read or
    do not fit.
    """
    height, width = _picture_size(metadata)
    labels = None
    images = _idx_file(folder, IDX_IMAGES)
    if images is not None:
        pictures = _read_idx(images, 3)
        beside = _idx_file(folder, IDX_LABELS)
        labels = _read_idx(beside, 1).astype(np.int64) if beside is not None else None
        source = f"{len(pictures):,} test images from {folder}"
        names = [str(images)] * len(pictures)
    else:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise SampleError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no {IDX_IMAGES}(.gz)")
        pictures_read = [_read_grey(file) for file in files]
        names = [str(file) for file in files]
        for name, picture in zip(names, pictures_read, strict=True):
            if picture.shape != pictures_read[0].shape:
                raise _misfit(metadata.name, name, picture, height, width)
        pictures, source = np.stack(pictures_read), f"{len(files)} images from {folder}"
    high, wide = pictures.shape[1:]
    rows, columns = height // high, width // wide
    if (high, wide) != (height, width):
        if rows * columns < 2:
            raise _misfit(metadata.name, names[0], pictures[0], height, width)
        pictures = _side_by_side(pictures, height, width)
        source += f", {rows * columns} side by side in a picture of {width}x{height}"
        labels = None  # Of the parts, not of the whole.
    shape = sample_shape(metadata.name, metadata.inputs[0], 1)
    return Samples({metadata.inputs[0].name: pictures.reshape(-1, *shape)}, source, labels)


def _side_by_side(pictures: Pixels, height: int, width: int) -> Pixels:
    """[images, height, width]: each picture begins with another image, and goes on with those after it."""
    count, high, wide = pictures.shape
    rows, columns = height // high, width // wide
    places = (np.arange(count)[:, None] + np.arange(rows * columns)) % count
    tiled = pictures[places].reshape(-1, rows, columns, high, wide).swapaxes(2, 3)
    top, left = (height - rows * high) // 2, (width - columns * wide) // 2
    pixels = np.zeros((count, height, width), np.uint8)
    pixels[:, top : top + rows * high, left : left + columns * wide] = tiled.reshape(-1, rows * high, columns * wide)
    return pixels


def _picture_size(metadata: pb.ModelMetadataResponse) -> tuple[int, int]:
    """Height and width of the pictures that the model takes."""
    tensor = metadata.inputs[0] if len(metadata.inputs) == 1 else None
    size = [length for length in tensor.shape[1:] if length != 1] if tensor else []
    if tensor is None or tensor.datatype != "UINT8" or len(size) != 2 or min(size) < 1:
        inputs = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
        raise SampleError(
            f"model {metadata.name!r} takes no grey images (UINT8 [batch, height, width]) but {inputs}: "
            "leave out --samples to send random values"
        )
    return size[0], size[1]


def _misfit(model: str, name: str, picture: Pixels, height: int, width: int) -> SampleError:
    return SampleError(
        f"{name} has {picture.shape[1]}x{picture.shape[0]} pixels; model {model!r} takes {width}x{height}, "
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
    """An IDX file of bytes: two zeros, 8 for unsigned bytes, the number of dimensions, each length in four bytes
    (big-endian), and the values. Source: yann.lecun.com/exdb/mnist."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        shape = np.frombuffer(data, ">u4", dimensions, 4).astype(int).tolist()
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    except (OSError, EOFError, ValueError) as error:
        raise SampleError(f"{file} cannot be read as an IDX file: {error}") from error
    if data[:4] != bytes((0, 0, 8, dimensions)) or values.size != np.prod(shape):
        raise SampleError(f"{file} cannot be read as an IDX file: its header does not fit its contents")
    return values.reshape(shape)
