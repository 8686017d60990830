"""The preprocessing that turns a picture's pixels into a network's input: what the user and companion files state about
it, and the complete steps."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hangtag.export.errors import ExportError
from hangtag.export.network_arrays import Array, Pixels
from hangtag.serving.image_spec import FITS, ImageSpec, ImageSpecError

EXAMPLE = '--preprocessing "size=224x224 fit=crop order=rgb scale=255 mean=0.485,0.456,0.406 std=0.229,0.224,0.225"'
LOGITS, PROBABILITIES = "logits", "probabilities"
SCORES = (LOGITS, PROBABILITIES)
_FORMS = {
    "size": "HEIGHTxWIDTH, two whole numbers above 0",
    "fit": " or ".join(FITS),
    "order": "rgb or bgr",
    "scale": "a number above 0",
    "mean": "one number, or three separated by commas",
    "std": "one number above 0, or three separated by commas",
}
_NUMPY = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


@dataclass(frozen=True)
class Stated:
    """What the user and companion files state about a network: its outputs, and how pixels from 0 to 255 become its
    input, ((pixel / scale) - mean) / std. A value that is not stated is None.

    Attributes:
        size: Height and width.
        fit: One of ``image_spec.FITS``: the way to resize a picture.
        order: rgb or bgr: the order of the network's channels, and of mean and std.
        scale: The number by which pixels are divided first.
        mean: The mean of pixels after the division by scale: one number, or a number for each channel.
        std: The standard deviation of these pixels: one number, or a number for each channel.
        labels: The names of the labels, in the order of the outputs' last axis.
        scores: One of SCORES.
        sources: The values that companion files state, as sentences without a full stop.
        notes: Sentences about preprocessing steps that differ from those in a companion file, and about changed labels.
        problems: Sentences about companion files that could not be read.
    """

    size: tuple[int, int] | None = None
    fit: str | None = None
    order: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    scores: str | None = None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, **more: Any) -> "Stated":
        """Read ``size=HEIGHTxWIDTH fit=stretch|crop|pad order=rgb|bgr scale=255 mean=R,G,B std=R,G,B``.

        Each part may be left out.

        Args:
            text: The parts, separated by blanks.
            more: Other fields, by name.

        Raises:
            ExportError: a key is unknown, or a value is malformed.

        Example:
            >>> Stated.parse("order=bgr scale=255 mean=0.5 std=0.5").order
            'bgr'
        """
        parsed = {}
        for part in text.split():
            key, _, value = part.partition("=")
            if key in parsed:
                raise ExportError(f"--preprocessing names {key} more than once.")
            try:
                parsed[key] = _value(key, value)
            except (ValueError, KeyError) as error:
                form = f"{key} is {_FORMS[key]}" if key in _FORMS else f"its parts are {', '.join(_FORMS)}"
                raise ExportError(
                    f"--preprocessing: {part!r} is not understood: {form}. For example: {EXAMPLE}"
                ) from error
        return cls(**parsed, **more)

    def over(self, other: "Stated") -> "Stated":
        """Return these statements; those that are missing come from ``other``. The lists of sources, notes and problems
        are joined."""
        own, others = ({one.name: getattr(stated, one.name) for one in fields(self)} for stated in (self, other))
        joined = {name: own[name] + others[name] for name in ("sources", "notes", "problems")}
        return Stated(**(others | {name: value for name, value in own.items() if value is not None} | joined))

    def __str__(self) -> str:
        """Return the steps in the form that ``parse`` reads; empty if no step is stated."""
        texts = {
            "size": None if self.size is None else f"{self.size[0]}x{self.size[1]}",
            "fit": self.fit,
            "order": self.order,
            "scale": None if self.scale is None else f"{self.scale:g}",
            "mean": None if self.mean is None else ",".join(f"{value:.6g}" for value in self.mean),
            "std": None if self.std is None else ",".join(f"{value:.6g}" for value in self.std),
        }
        return " ".join(f"{key}={text}" for key, text in texts.items() if text is not None)


@dataclass(frozen=True)
class NetworkImage:
    """The input of a network that accepts one picture.

    Attributes:
        name: The name of the input.
        datatype: FP32, FP16 or UINT8.
        batch: The size of the first axis; None if this axis is free.
        channels: 1 or 3; None if the channel axis is free.
        axis: The index of the channel axis: 1 or 3; None if there is no channel axis.
        height: The height in pixels; None if this axis is free.
        width: The width in pixels; None if this axis is free.
    """

    name: str
    datatype: str
    batch: int | None
    channels: int | None
    axis: int | None
    height: int | None
    width: int | None

    @classmethod
    def of(cls, name: str, datatype: str, shape: Sequence[int | None]) -> "NetworkImage | None":
        """Describe the pictures that an input accepts; None if it accepts no pictures. The shape of pictures is [batch,
        1|3, height, width], [batch, height, width, 1|3] or [batch, height, width]. Four free axes mean [batch,
        channels, height, width]."""
        if datatype not in _NUMPY or len(shape) not in (3, 4):
            return None
        if len(shape) == 3:
            return cls(name, datatype, shape[0], 1, None, *shape[1:])
        if shape[3] in (1, 3) and shape[1] not in (1, 3):
            return cls(name, datatype, shape[0], shape[3], 3, *shape[1:3])
        if shape[1] in (None, 1, 3):
            return cls(name, datatype, shape[0], shape[1], 1, *shape[2:])
        return None

    def __str__(self) -> str:
        edges: list[object] = [self.height or "any", self.width or "any"]
        if self.axis is not None:
            edges.insert(self.axis - 1, self.channels or "any")
        return f"{self.name}: {self.datatype} [{', '.join(map(str, [self.batch or 'any', *edges]))}]"


@dataclass(frozen=True)
class Steps:
    """The steps that turn UINT8 images into the network's input. The published graph computes the same steps. hangtag
    compares the graph with ``network_input``.

    Attributes:
        spec: The image description of the published file.
        order: rgb or bgr.
        scale: See Stated.
        mean: The mean, in the network's order of channels.
        std: The standard deviation, in the network's order of channels.
        axis: See NetworkImage.
        datatype: See NetworkImage.
        input: The name of the network's input.
    """

    spec: ImageSpec
    order: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    axis: int | None
    datatype: str
    input: str

    @property
    def factor(self) -> Array:
        """The factor for pixels, before ``offset`` is added: FP32, one number or a number for each channel."""
        return np.asarray(1 / (self.scale * np.array(self.std)), np.float32)

    @property
    def offset(self) -> Array:
        return np.asarray(-np.array(self.mean) / np.array(self.std), np.float32)

    def __str__(self) -> str:
        size = (self.spec.height, self.spec.width)
        return str(Stated(size, self.spec.fit, self.order, self.scale, self.mean, self.std))

    def network_input(self, image: Pixels) -> Array:
        """Convert one image of shape ``spec.shape`` to the network's input, a batch of one."""
        pixels: Array = image.astype(np.float32).reshape(*image.shape[:2], -1)
        if self.order == "bgr":
            pixels = pixels[:, :, ::-1]
        pixels = (pixels / np.float32(self.scale) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        if self.axis is None:
            pixels = pixels[:, :, 0]
        elif self.axis == 1:
            pixels = pixels.transpose(2, 0, 1)
        taken: Array = np.ascontiguousarray(pixels[None]).astype(_NUMPY[self.datatype])
        return taken


def steps(stated: Stated, network: NetworkImage) -> Steps:
    """Add defaults to the stated preprocessing: stretch pictures to the size, and leave the pixels as they are.

    Raises:
        ExportError: the preprocessing is unclear, or does not fit the network's input.
    """
    size = stated.size or (network.height, network.width)
    height, width = size
    if height is None or width is None:
        raise ExportError(f"the network's input is {network}: state its size with --preprocessing size=HEIGHTxWIDTH.")
    if any(own not in (None, edge) for own, edge in zip((network.height, network.width), size, strict=True)):
        needed = f"--preprocessing size={network.height or height}x{network.width or width}"
        raise ExportError(f"size={height}x{width} does not fit the network's input {network}, which needs {needed}.")
    channels = network.channels or 3
    mean, std, order = stated.mean or (0.0,), stated.std or (1.0,), stated.order or "rgb"
    if max(len(mean), len(std)) > channels:
        raise ExportError(f"there are 3 means or stds, but the network's input {network} has 1 channel.")
    if order == "bgr" and channels == 1:
        raise ExportError(f"order=bgr is for colour, but the network's input {network} has 1 channel.")
    if stated.scale is None and (stated.mean or stated.std) and max(*mean, *std) <= 1:
        raise ExportError(
            "pixels are numbers from 0 to 255, and mean and std look like those of pixels from 0 to 1: add scale=255 "
            "to --preprocessing if the network learned from pixels from 0 to 1, else scale=1."
        )
    scale = stated.scale or 1.0
    of_rgb = [
        tuple(value * scale / 255 for value in (values[::-1] if order == "bgr" else values)) for values in (mean, std)
    ]
    try:
        image = ImageSpec(height, width, channels, mean=of_rgb[0], std=of_rgb[1], fit=stated.fit or "stretch")
    except ImageSpecError as error:
        raise ExportError(f"the preprocessing {stated} is not possible: {error}.") from error
    completed = Steps(image, order, scale, mean, std, network.axis, network.datatype, network.name)
    if network.datatype == "UINT8" and ((completed.factor != 1).any() or (completed.offset != 0).any()):
        raise ExportError(f"the network's input {network} takes pixels as they are: leave scale, mean and std out.")
    return completed


def _value(key: str, text: str) -> Any:
    """Read the value of one part, such as ``size``. Raises ValueError or KeyError if the value is malformed."""
    if key in ("fit", "order"):
        return {choice: choice for choice in (FITS if key == "fit" else ("rgb", "bgr"))}[text]
    if key == "size":
        height, width = (int(size) for size in text.split("x"))
        numbers: tuple[float, ...] = (height, width)
    else:
        numbers = tuple(float(number) for number in text.split(","))
    counts = {"size": (2,), "scale": (1,), "mean": (1, 3), "std": (1, 3)}[key]
    if len(numbers) not in counts or not np.isfinite(numbers).all() or (key != "mean" and min(numbers) <= 0):
        raise ValueError(key)
    return numbers[0] if key == "scale" else numbers
