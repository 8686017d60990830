"""Read pictures as samples: from a folder, with or without a subfolder for each label, from a CSV file with pictures
and labels, or from a data set's test images in IDX files. Pictures are prepared as the server would prepare them, so
inference and classification compute the same."""

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
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.samples.arrays import Samples, numbers_of, sample_shape

Pixels = npt.NDArray[np.uint8]
IDX_IMAGES, IDX_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# Fashion-MNIST's test images and labels, by the SHA-256 of their decompressed files, and the digest of the whole data
# set that a model's file records (training/data/fashion_mnist.py).
_FASHION_MNIST = (
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_FASHION_MNIST_DATA = "d1fd84a877f3b78fa9a171b3de73f93e7b6f69ed94bada3feae9d96821401f5c"


def read_pictures(metadata: pb.ModelMetadataResponse, folder: Path, parameters: Mapping[str, str]) -> Samples:
    """Read the pictures of a folder, or of a CSV file.

    Args:
        metadata: The model's metadata from its server.
        folder: A folder with a subfolder of pictures for each label, named like the model's label; or a folder of
            pictures without labels, or of a data set's t10k files. Or a CSV file as for ``hangtag train``: only the
            rows of the split test are read, if there are any.
        parameters: The parameters of the model's configuration: how to prepare a picture, and the labels.

    Raises:
        SampleError: When the pictures cannot be read, do not fit the model, or have labels that the model does not
            know.
        DataNotFoundError: When the CSV file, or a picture that it names, is missing.
        DataCorruptError: When the CSV file is malformed.
    """
    reader = _Reader(metadata, parameters)
    idx_images = _idx_file(folder, IDX_IMAGES)
    classes: npt.NDArray[np.generic] | None = None
    digests = frozenset[str]()
    if idx_images is not None:
        files = [idx_images, *filter(None, [_idx_file(folder, IDX_LABELS)])]
        contents = [idx.unpacked(file) for file in files]
        pixels, *others = (idx.parsed(content, file) for content, file in zip(contents, files, strict=True))
        if any(array.shape != pixels.shape[:1] for array in others) or pixels.ndim < 3:
            raise SampleError(f"the IDX files in {folder} must hold images [n, height, width], and a label for each")
        images = [reader.prepared(Image.fromarray(each), idx_images) for each in pixels]
        if others:
            classes = others[0]
            is_garments = tuple(hashlib.sha256(content).hexdigest() for content in contents) == _FASHION_MNIST
            digests = frozenset({_FASHION_MNIST_DATA} if is_garments else ())
        source = f"{len(images):,} test images from {folder}"
    elif labelled := _labelled(folder):
        classes = numbers_of([each.label for each in labelled], parameters, metadata.name, folder)
        images = [reader.read(each.path) for each in labelled]
        digests = _data_digests(folder, labelled)
        source = f"{len(images):,} images of {len(np.unique(classes))} labels from {folder}"
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
    return Samples(inputs, source, None if classes is None else np.asarray(classes, np.int64), digests)


class _Reader:
    """Prepares pictures for one model."""

    def __init__(self, metadata: pb.ModelMetadataResponse, parameters: Mapping[str, str]) -> None:
        """Read which pictures the model takes. Raises SampleError if the model does not take pictures."""
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
        """A file's pixels, in the form that the model takes."""
        try:
            return self.prepared(image_spec.upright(file, self._image.channels), file)
        except PictureError as error:
            raise SampleError(f"{file} cannot be read as an image: {error}") from error

    def prepared(self, picture: Image.Image, file: Path) -> Pixels:
        """A picture's pixels, in the form that the model takes."""
        height, width = self._image.height, self._image.width
        if not self._fits and picture.size != (width, height):
            raise SampleError(
                f"{file} has {picture.width}x{picture.height} pixels; model {self._model!r} takes {width}x{height}, "
                "and its file does not say how images of other sizes are made to fit. Scale them yourself, or record "
                f"it in the file: hangtag models fit {self._model} --fit stretch|crop|pad"
            )
        return self._image.prepare(image_spec.flattened(picture, self._image.channels), whole=self._whole)


def _natural_image(metadata: pb.ModelMetadataResponse) -> ImageSpec:
    """Infer from the shape of the model's input which images it takes. Axes of size 1 are ignored."""
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


def _labelled(place: Path) -> list[Picture]:
    """The pictures of a CSV file, or of the folder's subfolders, whose names are the labels."""
    if not place.is_dir():
        pictures = listing.listed(f"csv:{place}").pictures
        return [each for each in pictures if each.split == "test"] or pictures
    folders = sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [
        Picture(file, file.relative_to(place).as_posix(), each.name)
        for each in folders
        for file in _pictures(each, "**/*")
    ]


def _data_digests(folder: Path, labelled: Sequence[Picture]) -> frozenset[str]:
    """The digests that `hangtag import --data` records for these pictures, if given this folder or its parent."""
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


def _pictures(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.suffix.lower() in SUFFIXES and file.is_file())


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)
