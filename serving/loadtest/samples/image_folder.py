"""Reads pictures as samples from a folder, from a CSV file, or from a data set's test images in IDX files.

A folder may have a subfolder for each label. Pictures are prepared in the same way as by the server, so that ModelInfer
and Classify compute the same answers.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hangtag import idx, listing
from hangtag.listing import Picture
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

    The folder has a subfolder of pictures for each label, as for ``hangtag train``, or pictures without labels, or a
    data set's t10k files. If a folder or a CSV file names splits, only the pictures of the split 'test' are read. The
    parameters in the model's configuration say how to prepare a picture, and name the labels.

    Raises:
        LoadTestError: If the pictures cannot be read or do not match the model's input, or if the model lacks one of
            their labels.
        DataNotFoundError: A picture is missing.
        DataCorruptError: If the CSV file is malformed, or if the folder of a label or of a split has no pictures.
    """
    image = _image_of(description)
    classes: npt.NDArray[np.generic] | None = None
    digests = frozenset[str]()
    idx_images = _idx_file(folder, IDX_IMAGES)
    if idx_images is not None:
        files = [idx_images, *filter(None, [_idx_file(folder, IDX_LABELS)])]
        contents = [idx.unpacked(file) for file in files]
        pixels, *others = (idx.parsed(content, file) for content, file in zip(contents, files, strict=True))
        if any(array.shape != pixels.shape[:1] for array in others) or pixels.ndim < 3:
            raise LoadTestError(f"the IDX files in {folder} must have images [n, height, width], and a label per image")
        images = [_prepared(Image.fromarray(each), idx_images, description, image) for each in pixels]
        if others:
            classes = others[0]
            is_garments = tuple(hashlib.sha256(content).hexdigest() for content in contents) == _FASHION_MNIST
            digests = frozenset({_FASHION_MNIST_DATA} if is_garments else ())
        source = f"{len(images):,} test images from {folder}"
    elif labelled := _labelled(folder):
        classes = numbers_of([each.label for each in labelled], description, folder)
        images = [_read(each.path, description, image) for each in labelled]
        digests = _data_digests(folder, labelled)
        source = f"{len(images):,} images of {len(np.unique(classes))} labels from {folder}"
    else:
        loose = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not loose:
            raise LoadTestError(
                f"{folder} has no images ({', '.join(SUFFIXES)}), no folders of images, and no {IDX_IMAGES}(.gz)"
            )
        images = [_read(file, description, image) for file in loose]
        source = f"{len(images):,} images from {folder}"
    tensor = description.metadata.inputs[0]
    inputs = {tensor.name: np.stack(images).reshape(-1, *sample_shape(description.model, tensor, 1))}
    return Samples(inputs, source, None if classes is None else np.asarray(classes, np.int64), digests)


def _image_of(description: Description) -> ImageSpec:
    """Return the size and colours of the pictures that a model needs, and how to make a picture fit if that is known.

    The size and the colours follow from the shape of the model's input, without axes of size 1.
    """
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


def _read(file: Path, description: Description, image: ImageSpec) -> Pixels:
    try:
        return _prepared(image_spec.upright(file, image.channels), file, description, image)
    except PictureError as error:
        raise LoadTestError(f"{file} cannot be read as an image: {error}") from error


def _prepared(picture: Image.Image, file: Path, description: Description, image: ImageSpec) -> Pixels:
    """Convert a picture's pixels to the form of the model's input."""
    model, parameters = description.model, description.parameters
    if "hangtag.image" not in parameters and picture.size != (image.width, image.height):
        raise LoadTestError(
            f"{file} has {picture.width}x{picture.height} pixels, but model {model!r} needs "
            f"{image.width}x{image.height}, and the model's file does not say how to resize images. Scale the image, "
            f"or record how to resize in the model's file: hangtag models fit {model} --fit stretch|crop|pad"
        )
    whole = parameters.get("hangtag.task") == "multi_label"
    return image.prepare(image_spec.flattened(picture, image.channels), whole=whole)


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
