"""Describe a model from its ONNX file: inputs, outputs, labels, task, and whether requests may be batched. The
metadata with the prefix ``hangtag.`` hold what the graph cannot express."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hangtag.printable import named
from hangtag.serving import batchable
from hangtag.serving.image_spec import ImageSpec, ImageSpecError, is_number

PREFIX = "hangtag."

# ONNX element type, as ONNX Runtime spells it -> datatype of the Open Inference Protocol.
_DATATYPES = {
    **{f"tensor({kind}{bits})": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_GARMENTS = ("fashion-mnist", "outfits", "outfits-independent")
"""The data sets of garments that hangtag trains on. If a trained model's file names no data set, an early release
trained it on Fashion-MNIST."""


class UnsupportedModelError(ValueError):
    """The protocol cannot carry an input or output of the graph, or a ``hangtag.`` property is malformed."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        datatype: the datatype in the Open Inference Protocol, such as ``FP32``.
        shape: the size of each axis; None for a dynamic axis, whose size may differ between requests.
        symbols: the file's name for each axis; None if an axis is fixed or unnamed.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]
    symbols: tuple[str | None, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.symbols) != len(self.shape):
            object.__setattr__(self, "symbols", (None,) * len(self.shape))

    @classmethod
    def from_onnx(cls, name: str, onnx_type: str, shape: Iterable[int | str | None]) -> "TensorSpec":
        """Convert ONNX Runtime's description of a tensor, in which a dynamic axis is a symbol or None. Raises
        UnsupportedModelError if the protocol has no datatype for ``onnx_type``."""
        datatype = _DATATYPES.get(onnx_type)
        if datatype is None:
            raise UnsupportedModelError(
                f"{name!r} is a {onnx_type}, a type that the Open Inference Protocol does not have"
            )
        axes = [(size, None) if isinstance(size, int) and size >= 0 else (None, size) for size in shape]
        symbols = (symbol if isinstance(symbol, str) else None for _, symbol in axes)
        return cls(name, datatype, tuple(size for size, _ in axes), tuple(symbols))

    @property
    def axes(self) -> batchable.Axes:
        """The shape as in the file: each axis as its size, or as its symbol if it is dynamic."""
        return tuple(symbol if size is None else size for size, symbol in zip(self.shape, self.symbols, strict=True))

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape as in the protocol, with -1 for a dynamic axis."""
        return tuple(-1 if size is None else size for size in self.shape)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.datatype} [{', '.join('any' if size is None else str(size) for size in self.shape)}]"
        )


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs, in the graph's order, and its metadata: the contract between training and serving.

    Attributes:
        metadata: the ``hangtag.`` properties, without their prefix.
        batching_override: whether the operator allows batching; None if the operator has not decided.
        disproof: why a trial of the model ruled out batching; None if no trial ruled out batching.

    Raises:
        UnsupportedModelError: raised by a property below if its ``hangtag.`` metadata is malformed. ``from_onnx`` reads
            all properties, so that a malformed file fails when it is loaded, and not at the first request.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    batching_override: bool | None = None
    disproof: str | None = None

    @classmethod
    def from_onnx(
        cls,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        properties: Mapping[str, str],
        batching_override: bool | None = None,
    ) -> "Signature":
        """Build the signature from a graph's inputs, outputs and metadata_props. Raises UnsupportedModelError if a
        property is malformed, or a setting demands batching although the graph rules batching out."""
        metadata = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
        signature = cls(tuple(inputs), tuple(outputs), metadata, batching_override)
        _ = signature.labels, signature.label_distances, signature.threshold, signature.min_labels, signature.image
        _ = signature.why_unbatched
        return signature

    @property
    def batched(self) -> bool:
        """Whether requests may be batched, that is joined along the first axis."""
        return self.why_unbatched is None

    @cached_property
    def why_unbatched(self) -> str | None:
        """Why requests may not be batched; None if batching is allowed.

        The operator's setting takes precedence over the file's ``hangtag.batched``, which takes precedence over the
        axes. A trial may forbid batching that the file or the axes allow, but never allows batching that they forbid.
        """
        declared = self.metadata.get("batched")
        if declared not in ("true", "false", None):
            raise UnsupportedModelError(f"{PREFIX}batched must be true or false, not {declared!r}")
        batched, source = self.batching_override, "the operator"
        if batched is None:
            if declared != "false" and self.disproof is not None:
                return self.disproof
            if declared is None:
                return batchable.doubt(*self._axes())
            batched, source = declared == "true", f"{PREFIX}batched in its file"
        if not batched:
            return f"{source} forbids batching"
        if self.impossibility:
            raise UnsupportedModelError(
                f"{source} demands batching, but requests cannot be batched: {self.impossibility}"
            )
        return None

    @property
    def impossibility(self) -> str | None:
        """Why requests cannot be batched at all, even if a setting demands it; None if batching is possible."""
        return batchable.impossibility(*self._axes())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the outputs' last axis; empty if the file has no labels."""
        labels = self._json("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UnsupportedModelError(f"{PREFIX}labels is not a JSON list of strings")
        return tuple(labels)

    @cached_property
    def label_distances(self) -> tuple[tuple[float, ...], ...] | None:
        """The distance between any two labels, [labels][labels], from 0 (the same) to 1; None if the file has none."""
        if "label_distances" not in self.metadata:
            return None
        rows = self._json("label_distances", None)
        count = len(self.labels)
        lengths = [len(row) if isinstance(row, list) else None for row in rows] if isinstance(rows, list) else None
        if lengths != [count] * count:
            raise UnsupportedModelError(
                f"{PREFIX}label_distances is not a JSON matrix with a row and a column for each of the {count} labels"
            )
        if not all(is_number(value) and 0 <= value <= 1 for row in rows for value in row) or any(
            rows[i][i] for i in range(count)
        ):
            raise UnsupportedModelError(
                f"{PREFIX}label_distances must hold numbers from 0 to 1, with 0 from each label to itself"
            )
        return tuple(tuple(map(float, row)) for row in rows)

    @cached_property
    def threshold(self) -> float:
        """The least probability at which a ``multi_label`` model predicts a label; 0.5 by default."""
        threshold = self._json("threshold", 0.5)
        if not (is_number(threshold) and 0 <= threshold <= 1):
            raise UnsupportedModelError(f"{PREFIX}threshold must be a number from 0 to 1, not {threshold!r}")
        return float(threshold)

    @cached_property
    def min_labels(self) -> int:
        """The least size of a ``multi_label`` model's predicted set; 0 by default. If fewer labels reach the threshold,
        the most probable other labels are added."""
        count = self._json("min_labels", 0)
        if type(count) is not int or count < 0:
            raise UnsupportedModelError(f"{PREFIX}min_labels must be a whole number of at least 0, not {count!r}")
        return count

    @cached_property
    def image(self) -> ImageSpec | None:
        """The image description of the model's only input; None if the file has no description.

        Files of earlier releases have no description. If such a model was trained on garments, the property returns a
        description with the fit ``garment``.
        """
        if "image" in self.metadata:
            try:
                image = ImageSpec.parse(self.metadata["image"])
            except ImageSpecError as error:
                raise UnsupportedModelError(f"{PREFIX}image is malformed: {error}") from error
            if [each.shape[1:] for each in self.inputs] != [image.shape] or self.inputs[0].datatype != "UINT8":
                inputs = ", ".join(map(str, self.inputs))
                expected = ", ".join(map(str, ("batch", *image.shape)))
                raise UnsupportedModelError(
                    f"{PREFIX}image needs one input UINT8 [{expected}], but the model has {inputs}"
                )
            return image
        training = self._json("training", None)
        config = training.get("config") if isinstance(training, dict) else None
        if isinstance(config, dict) and config.get("dataset", _GARMENTS[0]) in _GARMENTS and len(self.inputs) == 1:
            match self.inputs[0].datatype, self.inputs[0].shape:
                case ["UINT8", [_, int(height), int(width)]]:
                    return ImageSpec(height, width, fit="garment")
        return None

    @property
    def picture_shape(self) -> tuple[int, ...] | None:
        """The shape of a classifier's picture: (height, width), or (height, width, 3). None for any other model."""
        probabilities, count = self.output("probabilities"), len(self.labels)
        if len(self.inputs) == 1 and probabilities and count and probabilities.shape in ((None, count), (1, count)):
            match self.inputs[0].datatype, self.inputs[0].shape:
                case ["UINT8", [None | 1, int(height), int(width)]]:
                    return height, width
                case ["UINT8", [None | 1, int(height), int(width), 3]]:
                    return height, width, 3
        return None

    @property
    def task(self) -> str | None:
        """``single_label``, ``multi_label``, or None if the file has no ``hangtag.task``."""
        return self.metadata.get("task")

    def output(self, name: str) -> TensorSpec | None:
        """Return the output of this name, or None if there is no such output."""
        return next((spec for spec in self.outputs if spec.name == name), None)

    def difference(self, other: "Signature") -> str | None:
        """Describe the first difference between two signatures that affects the answers; None if there is none. If both
        files describe their images, both must specify the same resizing, because a route prepares each picture only
        once, for its first model."""
        fits = (self.image.fit, other.image.fit) if self.image and other.image else ("", "")
        for what, own, others in (
            ("their inputs", self.inputs, other.inputs),
            ("their outputs", self.outputs, other.outputs),
            ("their task", self.task, other.task),
            ("their labels", self.labels, other.labels),
            ("whether requests are batched", self.batched, other.batched),
            ("how pictures are resized", *fits),
        ):
            if own != others:
                shown = (
                    named(list(map(str, each))) if isinstance(each, tuple) else str(each) for each in (own, others)
                )
                return f"{what}: {' and '.join(shown)}"
        return None

    def _axes(self) -> tuple[dict[str, batchable.Axes], dict[str, batchable.Axes]]:
        return {spec.name: spec.axes for spec in self.inputs}, {spec.name: spec.axes for spec in self.outputs}

    def _json(self, key: str, default: Any) -> Any:
        if key not in self.metadata:
            return default
        try:
            return json.loads(self.metadata[key])
        except (ValueError, RecursionError) as error:
            raise UnsupportedModelError(f"{PREFIX}{key} is not JSON: {error}") from error
