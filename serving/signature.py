"""What a served model is: its inputs, outputs, labels and task, all read from the ONNX file itself.

No side file is needed to serve a model. Metadata properties whose key begins with ``hangtag.`` carry what the graph
cannot say: the task, the labels, and where the model came from.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hangtag.serving import batchable

PREFIX = "hangtag."

# ONNX element type, as ONNX Runtime spells it -> datatype of the Open Inference Protocol.
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class UnsupportedModelError(ValueError):
    """The graph has an input or output that the protocol cannot carry, or metadata that cannot be read."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. A size of None is free: any size goes, and it may differ between requests.

    symbols: what the file calls each axis; None where it is fixed or has no name.
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
        """From ONNX Runtime's description, where a free axis is a symbol or None."""
        datatype = _DATATYPES.get(onnx_type)
        if datatype is None:
            raise UnsupportedModelError(f"{name!r} is a {onnx_type}, which the Open Inference Protocol cannot carry")
        sizes = tuple(shape)
        return cls(
            name,
            datatype,
            tuple(size if isinstance(size, int) and size >= 0 else None for size in sizes),
            tuple(size if isinstance(size, str) else None for size in sizes),
        )

    @property
    def axes(self) -> batchable.Axes:
        """The shape as the file has it: a size, or a free axis' symbol."""
        return tuple(symbol if size is None else size for size, symbol in zip(self.shape, self.symbols, strict=True))

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape as the protocol writes it: -1 where any size goes."""
        return tuple(-1 if size is None else size for size in self.shape)

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.datatype} [{', '.join('any' if size is None else str(size) for size in self.shape)}]"
        )


@dataclass(frozen=True)
class Signature:
    """A model's contract. ``metadata`` holds the ``hangtag.`` properties without their prefix.

    batching_override: the operator's word on whether requests may be joined; None where there is none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    batching_override: bool | None = None

    @classmethod
    def from_onnx(
        cls,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        properties: Mapping[str, str],
        batching_override: bool | None = None,
    ) -> "Signature":
        """From a graph's inputs, outputs and metadata_props.

        Raises UnsupportedModelError for metadata of ours that cannot be read, and for batching that cannot be.
        """
        ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
        signature = cls(tuple(inputs), tuple(outputs), ours, batching_override)
        # Read once now, so that a file that cannot be read is refused when it is loaded, not when it is asked.
        _ = signature.labels, signature.label_distances, signature.threshold, signature.min_labels
        _ = signature.why_unbatched
        return signature

    @property
    def batched(self) -> bool:
        """Whether requests may be joined along the first axis."""
        return self.why_unbatched is None

    @cached_property
    def why_unbatched(self) -> str | None:
        """Why requests may not be joined along the first axis; None where they may.

        The operator's word wins, then the file's own (``hangtag.batched``), then what inputs and outputs say.
        """
        told = self.metadata.get("batched")
        if told not in ("true", "false", None):
            raise UnsupportedModelError(f"{PREFIX}batched must be true or false, not {told!r}")
        if self.batching_override is not None:
            return self._as_told(self.batching_override, "the operator")
        if told is not None:
            return self._as_told(told == "true", f"{PREFIX}batched in its file")
        return batchable.doubt(*self._axes())

    @property
    def impossibility(self) -> str | None:
        """Why requests cannot be joined whoever says that they may; None where they could be."""
        return batchable.impossibility(*self._axes())

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What the outputs' last axis means, in order; empty for a model that does not say."""
        labels = self._json("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UnsupportedModelError(f"{PREFIX}labels is not a JSON list of strings")
        return tuple(labels)

    @cached_property
    def label_distances(self) -> tuple[tuple[float, ...], ...] | None:
        """How far apart two labels are, [labels][labels]: 0 is the same, 1 as far as it gets. None where not said."""
        if "label_distances" not in self.metadata:
            return None
        rows = self._json("label_distances", None)
        count = len(self.labels)
        if (
            not isinstance(rows, list)
            or [len(row) if isinstance(row, list) else None for row in rows] != [count] * count
        ):
            raise UnsupportedModelError(
                f"{PREFIX}label_distances is not a JSON matrix with a row and a column for each of the {count} labels"
            )
        if not all(_is_fraction(value) for row in rows for value in row) or any(rows[i][i] for i in range(count)):
            raise UnsupportedModelError(
                f"{PREFIX}label_distances must hold numbers from 0 to 1, and 0 from each label to itself"
            )
        return tuple(tuple(map(float, row)) for row in rows)

    @cached_property
    def threshold(self) -> float:
        """For ``multi_label``: how probable a label must be to be in the set; 0.5 for a model that does not say."""
        threshold = self._json("threshold", 0.5)
        if not _is_fraction(threshold):
            raise UnsupportedModelError(f"{PREFIX}threshold must be a number from 0 to 1, not {threshold!r}")
        return float(threshold)

    @cached_property
    def min_labels(self) -> int:
        """For ``multi_label``: how many labels a set has at least, the most probable ones where none reaches the
        threshold; 0 for a model that does not say."""
        count = self._json("min_labels", 0)
        if type(count) is not int or count < 0:
            raise UnsupportedModelError(f"{PREFIX}min_labels must be a whole number from 0, not {count!r}")
        return count

    @property
    def task(self) -> str | None:
        """``single_label``, ``multi_label``, or None for a model that does not say."""
        return self.metadata.get("task")

    def input(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        return next((spec for spec in self.outputs if spec.name == name), None)

    def _as_told(self, batched: bool, by: str) -> str | None:
        if not batched:
            return f"{by} says so"
        if self.impossibility:
            raise UnsupportedModelError(
                f"{by} says that requests may be joined, but they cannot be: {self.impossibility}"
            )
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


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
