"""Reads samples from a folder: pictures, with a folder for each label or without, or a data set's test images in IDX
files. They are prepared as the server would prepare them, so that inference and classification compute the same."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag.protos import inference_pb2 as pb
from hangtag.serving import image_spec
from hangtag.serving.image_spec import SUFFIXES, ImageSpec, ImageSpecError, PictureError
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, sample_shape

Pixels = npt.NDArray[np.uint8]
IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
_NAMED = 5


def read_folder(metadata: pb.ModelMetadataResponse, folder: Path, parameters: Mapping[str, str]) -> Samples:
    """Read the folder's pictures.

    Args:
        metadata: The model's metadata from its server.
        folder: It holds a folder of pictures for each label, named as the model names it; or pictures, without labels;
            or a data set's t10k files.
        parameters: Of the model's configuration: how a picture is prepared, and the labels.

    Raises:
        SampleError: When the pictures cannot be read, do not fit the model, or have labels that it does not know.
    """
    reader = _Reader(metadata, parameters)
    idx_images = _idx_file(folder, IDX_IMAGES)
    classes: Pixels | list[int] | None = None
    if idx_images is not None:
        images = [reader.prepared(Image.fromarray(each), idx_images) for each in _read_idx(idx_images, 3)]
        idx_labels = _idx_file(folder, IDX_LABELS)
        classes = _read_idx(idx_labels, 1) if idx_labels is not None else None
        source = f"{len(images):,} test images from {folder}"
    elif labelled := _labelled(folder):
        numbers = {label: number for number, label in enumerate(labels_of(parameters))}
        require_known((label for label, _ in labelled), numbers, metadata.name, folder)
        images = [reader.read(file) for _, file in labelled]
        classes = [numbers[label] for label, _ in labelled]
        source = f"{len(images):,} images of {len(set(classes))} labels from {folder}"
    else:
        files = _pictures(folder)
        if not files:
            raise SampleError(
                f"{folder} holds no images ({', '.join(SUFFIXES)}), no folders of images, and no {IDX_IMAGES}(.gz)"
            )
        images = [reader.read(file) for file in files]
        source = f"{len(images):,} images from {folder}"
    shape = sample_shape(metadata.name, metadata.inputs[0], 1)
    inputs = {metadata.inputs[0].name: np.stack(images).reshape(-1, *shape)}
    return Samples(inputs, source, None if classes is None else np.asarray(classes, np.int64))


def labels_of(parameters: Mapping[str, str]) -> list[str]:
    """The model's labels, in the order of their numbers; empty where its server does not say."""
    try:
        labels = json.loads(parameters.get("hangtag.labels", "[]"))
    except ValueError:
        return []
    return [str(label) for label in labels] if isinstance(labels, list) else []


def require_known(labels: Iterable[str], known: Mapping[str, int], model: str, source: Path) -> None:
    """Raise SampleError where samples have labels that the model does not know."""
    unknown = sorted(set(labels) - known.keys())
    if unknown:
        theirs = f"its labels are {_listed(list(known))}" if known else "its server does not say which it knows"
        raise SampleError(f"{source} has the labels {_listed(unknown)}, which model {model!r} does not know: {theirs}")


class _Reader:
    """Prepares pictures for one model."""

    def __init__(self, metadata: pb.ModelMetadataResponse, parameters: Mapping[str, str]) -> None:
        """Read which pictures the model takes. Raises SampleError where it takes none."""
        self._model = metadata.name
        self._whole = parameters.get("hangtag.task") == "multi_label"
        stated = parameters.get("hangtag.image")
        natural = _natural_image(metadata)
        try:
            self._image = ImageSpec.parse(stated) if stated is not None else natural
        except ImageSpecError as error:
            raise SampleError(f"the server does not say what images model {self._model!r} takes: {error}") from error
        if self._image.shape != natural.shape:
            raise SampleError(f"the images that model {self._model!r} takes, {self._image.shape}, are not its input's")
        self._fits = stated is not None

    def read(self, file: Path) -> Pixels:
        """A file's pixels as the model takes them."""
        try:
            return self.prepared(image_spec.upright(file, self._image.channels), file)
        except PictureError as error:
            raise SampleError(f"{file} cannot be read as an image: {error}") from error

    def prepared(self, picture: Image.Image, file: Path) -> Pixels:
        """A picture's pixels as the model takes them."""
        height, width = self._image.height, self._image.width
        if not self._fits and picture.size != (width, height):
            raise SampleError(
                f"{file} has {picture.width}x{picture.height} pixels; model {self._model!r} takes {width}x{height}, "
                "and does not say how others are made to fit. Scale them yourself, or record it in the model's file: "
                f"hangtag models fit {self._model} --fit stretch|crop|pad"
            )
        return self._image.prepare(image_spec.flattened(picture, self._image.channels), whole=self._whole)


def _natural_image(metadata: pb.ModelMetadataResponse) -> ImageSpec:
    """The images that the model's input holds, whose axes of size 1 mean nothing."""
    tensor = metadata.inputs[0] if len(metadata.inputs) == 1 else None
    size = [length for length in tensor.shape[1:] if length != 1] if tensor else []
    channels = size.pop() if len(size) == 3 and size[2] == 3 else 1
    if tensor is None or tensor.datatype != "UINT8" or len(size) != 2 or min(size) < 1:
        inputs = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
        raise SampleError(
            f"model {metadata.name!r} takes no images (UINT8 [batch, height, width] or [batch, height, width, 3]) but "
            f"{inputs}: leave out --samples to send random values"
        )
    return ImageSpec(size[0], size[1], channels)


def _labelled(folder: Path) -> list[tuple[str, Path]]:
    """Each picture of the folder's folders with its label, the name of its folder."""
    folders = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [(each.name, file) for each in folders for file in _pictures(each, "**/*")]


def _pictures(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in SUFFIXES and file.is_file())


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


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
