"""Reads pictures as samples from a folder, from a CSV file, or from a data set's test images in IDX files.

A folder may have a subfolder for each label. Pictures are prepared in the same way as by the server, so that ModelInfer
and Classify compute the same answers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag import idx, listing
from hangtag.listing import Picture
from hangtag.protos import inference_pb2 as pb
from hangtag.serving import image_spec
from hangtag.serving.image_spec import SUFFIXES, ImageSpec, ImageSpecError, PictureError
from hangtag.serving.loadtest.errors import LoadTestError
from hangtag.serving.loadtest.samples.sample_arrays import Samples, described, numbers_of, sample_shape
from hangtag.serving.loadtest.sut import Description

Pixels = npt.NDArray[np.uint8]
IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# The SHA-256 of Fashion-MNIST's decompressed test images and labels, and the digest of the whole data set that a
# model's file records (training/data/fashion_mnist.py).
_FASHION_MNIST = (
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_FASHION_MNIST_DATA = "d1fd84a877f3b78fa9a171b3de73f93e7b6f69ed94bada3feae9d96821401f5c"


def read_pictures(description: Description, folder: Path) -> Samples:
    """Read the pictures of a folder, or of a CSV file.

    Args:
        description: The target. The parameters in the model's configuration say how to prepare a picture, and name the
            labels.
        folder: A folder with a subfolder of pictures for each label, or a CSV file, as for ``hangtag train``; a folder
            of pictures without labels; or a folder of a data set's t10k files. If the folder or the CSV file names
            splits, only the pictures of the split test are read.

    Raises:
        LoadTestError: The pictures cannot be read, do not match the model's input, or have labels that the model
            does not have.
        DataNotFoundError: A picture is missing.
        DataCorruptError: The CSV file is malformed, or the folder of a label or of a split has no pictures.
    """
    metadata = description.metadata
    reader = _Reader(metadata, description.parameters)
    idx_images = _idx_file(folder, IDX_IMAGES)
    classes: npt.NDArray[np.generic] | None = None
    digests = frozenset[str]()
    if idx_images is not None:
        files = [idx_images, *filter(None, [_idx_file(folder, IDX_LABELS)])]
        contents = [idx.unpacked(file) for file in files]
        pixels, *others = (idx.parsed(content, file) for content, file in zip(contents, files, strict=True))
        if any(array.shape != pixels.shape[:1] for array in others) or pixels.ndim < 3:
            raise LoadTestError(f"the IDX files in {folder} must have images [n, height, width], and a label per image")
        images = [reader.prepared(Image.fromarray(each), idx_images) for each in pixels]
        if others:
            classes = others[0]
            is_garments = tuple(hashlib.sha256(content).hexdigest() for content in contents) == _FASHION_MNIST
            digests = frozenset({_FASHION_MNIST_DATA} if is_garments else ())
        source = f"{len(images):,} test images from {folder}"
    elif labelled := _labelled(folder):
        classes = numbers_of([each.label for each in labelled], description, folder)
        images = [reader.read(each.path) for each in labelled]
        digests = _data_digests(folder, labelled)
        source = f"{len(images):,} images of {len(np.unique(classes))} labels from {folder}"
    else:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise LoadTestError(
                f"{folder} has no images ({', '.join(SUFFIXES)}), no folders of images, and no {IDX_IMAGES}(.gz)"
            )
        images = [reader.read(file) for file in files]
        source = f"{len(images):,} images from {folder}"
    shape = sample_shape(metadata.name, metadata.inputs[0], 1)
    inputs = {metadata.inputs[0].name: np.stack(images).reshape(-1, *shape)}
    return Samples(inputs, source, None if classes is None else np.asarray(classes, np.int64), digests)


class _Reader:
    """Prepares pictures for one model."""

    def __init__(self, metadata: pb.ModelMetadataResponse, parameters: Mapping[str, str]) -> None:
        """Read the size and colours of the model's input. Raises LoadTestError if the input is not a picture."""
        self._model = metadata.name
        self._whole = parameters.get("hangtag.task") == "multi_label"
        stated = parameters.get("hangtag.image")
        natural = _natural_image(metadata)
        try:
            self._image = ImageSpec.parse(stated) if stated is not None else natural
        except ImageSpecError as error:
            raise LoadTestError(f"the server does not say which images model {self._model!r} needs: {error}") from error
        if self._image.shape != natural.shape:
            raise LoadTestError(
                f"model {self._model!r} needs images of the shape {self._image.shape}, but its input has another shape"
            )
        self._fits = stated is not None

    def read(self, file: Path) -> Pixels:
        """Read a file's pixels in the form of the model's input."""
        try:
            return self.prepared(image_spec.upright(file, self._image.channels), file)
        except PictureError as error:
            raise LoadTestError(f"{file} cannot be read as an image: {error}") from error

    def prepared(self, picture: Image.Image, file: Path) -> Pixels:
        """Convert a picture's pixels to the form of the model's input."""
        height, width = self._image.height, self._image.width
        if not self._fits and picture.size != (width, height):
            raise LoadTestError(
                f"{file} has {picture.width}x{picture.height} pixels, but model {self._model!r} needs "
                f"{width}x{height}, and the model's file does not say how to resize images. Scale the image, or record "
                f"how to resize in the model's file: hangtag models fit {self._model} --fit stretch|crop|pad"
            )
        return self._image.prepare(image_spec.flattened(picture, self._image.channels), whole=self._whole)


def _natural_image(metadata: pb.ModelMetadataResponse) -> ImageSpec:
    """Infer the size and colours of images from the shape of the model's input. Axes of size 1 are ignored."""
    tensor = metadata.inputs[0] if len(metadata.inputs) == 1 else None
    size = [length for length in tensor.shape[1:] if length != 1] if tensor else []
    channels = size.pop() if len(size) == 3 and size[2] == 3 else 1
    if tensor is None or tensor.datatype != "UINT8" or len(size) != 2 or min(size) < 1:
        inputs = ", ".join(described(tensor) for tensor in metadata.inputs)
        raise LoadTestError(
            f"model {metadata.name!r} has the inputs {inputs}, not images (UINT8 [any, height, width] or [any, "
            "height, width, 3]). Leave out --samples to send random values"
        )
    return ImageSpec(size[0], size[1], channels)


def _labelled(place: Path) -> list[Picture]:
    """List the pictures of a CSV file, or of a folder with one subfolder per label; empty if there is no subfolder.

    If the source names splits, only the pictures of the test split are listed.
    """
    if place.is_dir() and not any(each.is_dir() and not each.name.startswith(".") for each in place.iterdir()):
        return []
    pictures = listing.listed(f"{'folder' if place.is_dir() else 'csv'}:{place}").pictures
    return [each for each in pictures if each.split == "test"] or pictures


def _data_digests(folder: Path, labelled: Sequence[Picture]) -> frozenset[str]:
    """Return the digests that `hangtag import --data` records for these pictures in this folder, or in its parent."""
    by_content: dict[str, tuple[str, str]] = {}
    for each in labelled:
        by_content.setdefault(hashlib.sha256(each.path.read_bytes()).hexdigest(), (each.name, each.label))
    lines = sorted((name, label, content) for content, (name, label) in by_content.items())
    return frozenset(
        hashlib.sha256(
            "".join(f"{above}{name}\0{label}\0{content}\n" for name, label, content in lines).encode()
        ).hexdigest()
        for above in ("", f"{folder.resolve().name}/")
    )


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
