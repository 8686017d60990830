"""Reads samples from pictures or from an .npz file, or generates random samples. Each input of the model has an array.

Pictures are prepared in the same way as by the server, so that ModelInfer and Classify compute the same answers.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag import idx, listing
from hangtag.listing import Picture
from hangtag.printable import named
from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving import image_spec
from hangtag.serving.image_spec import SUFFIXES, ImageSpec, ImageSpecError, PictureError
from hangtag.serving.loadtest import LoadTestError
from hangtag.serving.loadtest.sut import Description

IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# The SHA-256 of Fashion-MNIST's decompressed test images and labels, and the digest of the whole data set, which a
# model's file records (training/data/fashion_mnist.py).
_FASHION_MNIST = (
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_FASHION_MNIST_DATA = "d1fd84a877f3b78fa9a171b3de73f93e7b6f69ed94bada3feae9d96821401f5c"

TensorMetadata = pb.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True)
class Samples:
    """The samples of a model."""

    inputs: Mapping[str, tensors.Array]  # Arrays [samples, ...] by the names of the model's inputs.
    source: str  # The source of the samples, for the report.
    labels: npt.NDArray[np.int64] | None = None  # The class indices [samples], if known.
    # The digests by which a model's file may identify its data set; empty unless these samples are its whole test set.
    data_digests: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def described(tensor: TensorMetadata) -> str:
    """Return a tensor's datatype and shape, such as UINT8 [any, 28, 28]."""
    return f"{tensor.datatype} [{', '.join('any' if size < 0 else str(size) for size in tensor.shape)}]"


def sample_shape(model: str, tensor: TensorMetadata, batch_size: int) -> list[int]:
    """Return the shape of one sample of an input, without the batch axis.

    Raises LoadTestError if the model does not accept batches of this size, or if another axis has no fixed size.
    """
    shape = list(tensor.shape)
    if any(length < 0 for length in shape[1:]):
        raise LoadTestError(
            f"input {tensor.name!r} of {model!r} is {described(tensor)}, but values can be generated only if every "
            "size except for the first is fixed"
        )
    if has_batch_axis(tensor, batch_size):
        return shape[1:]
    if batch_size != 1:
        raise LoadTestError(f"input {tensor.name!r} of {model!r} has the fixed shape {shape}: --batch-size must be 1")
    return shape  # The model has no batch axis, so the whole tensor is one sample.


def has_batch_axis(tensor: TensorMetadata, batch_size: int) -> bool:
    """Return whether the first axis of an input is the batch axis."""
    return bool(tensor.shape) and tensor.shape[0] in (-1, batch_size)


def generate(
    metadata: pb.ModelMetadataResponse, count: int, batch_size: int, random: np.random.Generator, max_bytes: int
) -> Samples:
    """Generate `count` samples, or fewer if `count` samples would exceed `max_bytes`, but at least one batch."""
    shapes = {tensor.name: sample_shape(metadata.name, tensor, batch_size) for tensor in metadata.inputs}
    sample_bytes = sum(len(tensors.to_raw(_random(each, 1, shapes[each.name], random))) for each in metadata.inputs)
    count = max(min(count, max_bytes // max(sample_bytes, 1)), batch_size)
    inputs = {tensor.name: _random(tensor, count, shapes[tensor.name], random) for tensor in metadata.inputs}
    text = ", ".join(f"{tensor.name} {described(tensor)}" for tensor in metadata.inputs)
    return Samples(inputs, f"random values for {text}")


def _random(tensor: TensorMetadata, count: int, sample: list[int], random: np.random.Generator) -> tensors.Array:
    datatype, shape = tensor.datatype, [count, *sample]
    if datatype == "BYTES":
        words = [random.bytes(6).hex().encode() for _ in range(math.prod(shape))]
        return np.array(words, np.object_).reshape(shape)
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        raise LoadTestError(f"values of datatype {datatype!r} cannot be generated")
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    # Integers of more than 8 bits are mostly indices, for example into a vocabulary, so small values are likely valid.
    return random.integers(0, 256 if datatype == "UINT8" else 128, shape).astype(dtype)


def read_npz(description: Description, file: Path, batch_size: int) -> Samples:
    """Read a file's arrays [samples, ...], which have the names of the model's inputs.

    If the model has a single input, the array may also have the name ``images``. The array ``labels``, if there is one,
    contains numbers or names of the model's labels.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except OSError as error:
        raise LoadTestError(f"{file} cannot be read: {error.strerror or error}") from error
    except (EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        # numpy's message is not shown, because it suggests allowing pickles
        raise LoadTestError(
            f"{file} is not an .npz file of numbers. Choose a folder, or a file that numpy.savez has written"
        ) from error
    shown = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in sorted(arrays.items())) or "(none)"
    inputs, metadata, labels = {}, description.metadata, arrays.get("labels")
    for tensor in metadata.inputs:
        array, shape = arrays.get(tensor.name), sample_shape(metadata.name, tensor, batch_size)
        if array is None and len(metadata.inputs) == 1:
            array = arrays.get("images")
        if array is None or list(array.shape[1:]) != shape or _datatype(array) != tensor.datatype:
            raise LoadTestError(
                f"{file} has the arrays {shown}, but model {metadata.name!r} needs {tensor.name!r} as "
                f"{tensor.datatype} [{', '.join(['samples', *map(str, shape)])}]"
            )
        inputs[tensor.name] = array
    lengths = {array.shape[:1] for array in (*inputs.values(), *([] if labels is None else [labels]))}
    are_labels = labels is None or (labels.ndim == 1 and labels.dtype.kind in "iuU")
    if len(lengths) != 1 or lengths & {(), (0,)} or not are_labels:
        raise LoadTestError(
            f"{file} must have at least one sample, and the same number of samples for each input. 'labels' is "
            f"optional, and must have a whole number or a name for each sample. The file has {shown}"
        )
    if labels is not None and labels.dtype.kind == "U":
        labels = numbers_of(labels.tolist(), description, file)
    source = f"{lengths.pop()[0]:,} samples from {file}"
    return Samples(inputs, source, None if labels is None else labels.astype(np.int64))


def _datatype(array: tensors.Array) -> str:
    try:
        return tensors.datatype_of(array)
    except ValueError:
        return ""


def numbers_of(labels: Sequence[str], description: Description, source: Path) -> npt.NDArray[np.int64]:
    """Return each label's index in the model's labels [samples]. Raises LoadTestError if the model lacks a label."""
    try:
        listed = json.loads(description.parameters["hangtag.labels"])
        known = {str(label): number for number, label in enumerate(listed)}
    except (KeyError, ValueError, TypeError):
        known = {}
    if unknown := sorted(set(labels) - known.keys()):
        theirs = f"the labels {named(list(known))}" if known else "no labels"
        raise LoadTestError(
            f"{source} has the labels {named(unknown)}, but model {description.model!r} reports {theirs}; rename them"
        )
    return np.array([known[label] for label in labels], np.int64)


def read_pictures(description: Description, folder: Path) -> Samples:
    """Read the pictures of a folder, or of a CSV file.

    The folder has a subfolder of pictures for each label, as for ``hangtag train``, or pictures without labels, or a
    data set's t10k files. If a folder or a CSV file names splits, only the pictures of the split 'test' are read.

    Raises:
        LoadTestError: The pictures cannot be read or do not match the model's input, or the model lacks a label.
        DataNotFoundError: A picture is missing.
        DataCorruptError: The CSV file is malformed, or the folder of a label or of a split has no pictures.
    """
    image = _image_of(description)
    classes: npt.NDArray[np.generic] | None = None
    digests = frozenset[str]()
    idx_images, idx_labels = (
        next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
        for name in (IDX_IMAGES, IDX_LABELS)
    )
    if idx_images is not None:
        files = [idx_images, *([idx_labels] if idx_labels else [])]
        contents = [idx.unpacked(file) for file in files]
        pixels, *others = (idx.parsed(content, file) for content, file in zip(contents, files, strict=True))
        if any(array.shape != pixels.shape[:1] for array in others) or pixels.ndim < 3:
            raise LoadTestError(f"the IDX files in {folder} must have images [n, height, width], and a label per image")
        images = [_prepared(idx_images, description, image, Image.fromarray(each)) for each in pixels]
        if others:
            classes = others[0]
            is_garments = tuple(hashlib.sha256(content).hexdigest() for content in contents) == _FASHION_MNIST
            digests = frozenset({_FASHION_MNIST_DATA} if is_garments else ())
        source = f"{len(images):,} test images from {folder}"
    elif labelled := _labelled(folder):
        classes = numbers_of([each.label for each in labelled], description, folder)
        images = [_prepared(each.path, description, image) for each in labelled]
        digests = _data_digests(folder, labelled)
        source = f"{len(images):,} images of {len(np.unique(classes))} labels from {folder}"
    else:
        loose = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not loose:
            raise LoadTestError(
                f"{folder} has no images ({', '.join(SUFFIXES)}), no folders of images, and no {IDX_IMAGES}(.gz)"
            )
        images = [_prepared(file, description, image) for file in loose]
        source = f"{len(images):,} images from {folder}"
    tensor = description.metadata.inputs[0]
    inputs = {tensor.name: np.stack(images).reshape(-1, *sample_shape(description.model, tensor, 1))}
    return Samples(inputs, source, None if classes is None else np.asarray(classes, np.int64), digests)


def _image_of(description: Description) -> ImageSpec:
    """Return the size and colours of the pictures that a model needs, and how to make them fit if that is known."""
    # The shape of the model's input, without its axes of size 1, gives the size and the number of colour channels.
    model, inputs, stated = description.model, description.metadata.inputs, description.parameters.get("hangtag.image")
    size = [length for length in inputs[0].shape[1:] if length != 1] if len(inputs) == 1 else []
    channels = size.pop() if len(size) == 3 and size[2] == 3 else 1
    if len(size) != 2 or min(size) < 1 or inputs[0].datatype != "UINT8":
        raise LoadTestError(
            f"model {model!r} has the inputs {', '.join(map(described, inputs))}, not images (UINT8 [any, height, "
            "width] or [any, height, width, 3]). Leave out --samples to send random values"
        )
    natural = ImageSpec(size[0], size[1], channels)
    try:
        image = natural if stated is None else ImageSpec.parse(stated)
    except ImageSpecError as error:
        raise LoadTestError(f"the server does not say which images model {model!r} needs: {error}") from error
    if image.shape != natural.shape:
        raise LoadTestError(f"model {model!r} needs images of the shape {image.shape}, but its input has another shape")
    return image


def _prepared(
    file: Path, description: Description, image: ImageSpec, picture: Image.Image | None = None
) -> image_spec.Pixels:
    """Prepare a file's picture for the model. `picture` is one of several pictures in an IDX file."""
    model, parameters = description.model, description.parameters
    try:
        picture = picture or image_spec.upright(file, image.channels)
    except PictureError as error:
        raise LoadTestError(f"{file} cannot be read as an image: {error}") from error
    if "hangtag.image" not in parameters and picture.size != (image.width, image.height):
        raise LoadTestError(
            f"{file} has {picture.width}x{picture.height} pixels, but model {model!r} needs "
            f"{image.width}x{image.height}, and the model's file does not say how to resize images. Scale the image, "
            f"or record in the model's file how to resize: hangtag models fit {model} --fit stretch|crop|pad"
        )
    whole = parameters.get("hangtag.task") == "multi_label"
    return image.prepare(image_spec.flattened(picture, image.channels), whole=whole)


def _labelled(place: Path) -> list[Picture]:
    """List the pictures of a CSV file, or of a folder with one subfolder per label; empty if there is no subfolder."""
    if place.is_dir() and not any(each.is_dir() and not each.name.startswith(".") for each in place.iterdir()):
        return []
    pictures = listing.listed(f"{'folder' if place.is_dir() else 'csv'}:{place}").pictures
    return [each for each in pictures if each.split == "test"] or pictures


def _data_digests(folder: Path, labelled: Sequence[Picture]) -> frozenset[str]:
    """Return the two digests of these pictures that `hangtag import --data` records for `folder` and for its parent."""
    # Of several pictures with equal contents, only the first is used.
    first = {hashlib.sha256(each.path.read_bytes()).hexdigest(): each for each in reversed(labelled)}
    lines = sorted(f"{each.name}\0{each.label}\0{content}\n" for content, each in first.items())
    texts = ("".join(above + line for line in lines) for above in ("", f"{folder.resolve().name}/"))
    return frozenset(hashlib.sha256(text.encode()).hexdigest() for text in texts)
