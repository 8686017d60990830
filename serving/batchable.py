"""Decide from a graph's inputs and outputs whether requests may be batched, that is, joined along the first axis.

There are three tests, from the least strict to the strictest. Each returns why requests cannot be batched, or None:

    impossibility   The shapes rule batching out, even if the server's options or ``hangtag.batched`` demand it.
    obstacle        The axes make a trial of batching pointless. If there is no obstacle, `hangtag import` runs the same
                    inputs alone and in one batch, and records the result in the file as ``hangtag.batched``.
    doubt           The names suggest that requests cannot be batched. The server applies this test to files without
                    ``hangtag.batched``, because wrong batching mixes up callers' answers.

The axes do not prove that the rows of a batch are independent of each other. The server reads this proof from the file,
or makes a trial (``server.runtime.batching_proof``). Exporters may generate a different name for the batch axis in
each input and output, so these tests ignore generated names.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Axes: TypeAlias = Sequence[int | str | None]
"""A shape as ONNX Runtime gives it: a size, the name of a dynamic axis, or None for an unnamed dynamic axis."""

# ONNX calls the batch axis N, as in NCHW. A lower-case n may be the size of any axis, so n is not in this list.
_BATCH_NAMES = ("N", "B", "bs")
# The names that tf2onnx, torch.onnx and Paddle2ONNX generate for unnamed axes. torch.onnx has two forms.
_GENERATED = re.compile(r"unk__\d+|.*_dim_\d+|[su]\d+|DynamicDimension\.\d+|\?", re.DOTALL)


def impossibility(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Return why requests cannot be batched: an input or output has no first axis, or its first axis is fixed."""
    if not inputs:
        return "the model has no input"
    for name, axes in _every(inputs, outputs):
        if not axes:
            return f"{name!r} has no axis"
        if isinstance(axes[0], int) and axes[0] >= 0:
            return f"the first axis of {name!r} is fixed to {axes[0]}"
    return None


def obstacle(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Return why a trial of batching would be pointless. First axes with different names may differ in size: a model
    may turn n images into m rows. A tensor with two axes of the batch's size cannot be split into requests."""
    if reason := impossibility(inputs, outputs):
        return reason
    every = _every(inputs, outputs)
    names = [axes[0] for _, axes in every]
    chosen = {"batch" if _means_batch(name) else name for name in names if _is_chosen(name)}
    if len(chosen) > 1:
        return f"first axes have different names: {', '.join(sorted(map(str, chosen)))}"
    for name, axes in every:
        twice = next((axis for axis in axes[1:] if isinstance(axis, str) and axis and axis in names), None)
        if twice is not None:
            return f"{name!r} has the batch in two axes"
    return None


def doubt(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Return why the names of the axes do not permit batching. A first axis with another name might not be the batch
    but, for example, a sequence's length. A first axis is certainly not the batch if a later axis is named batch
    ([length, batch, features]). Inputs whose first axes may differ in size do not share a batch axis."""
    if reason := obstacle(inputs, outputs):
        return reason
    for name, axes in _every(inputs, outputs):
        if _is_chosen(axes[0]) and not _means_batch(axes[0]):
            return f"the first axis of {name!r} is called {axes[0]!r}, which need not be the batch"
        other = next((axis for axis in axes[1:] if isinstance(axis, str) and "batch" in axis.lower()), None)
        if other is not None:
            return f"the axis {other!r} is not the first axis of {name!r}"
    generated = {axes[0] for axes in inputs.values() if not _is_chosen(axes[0])}
    if len(generated) > 1:
        return f"the first axes of the model's inputs may differ in size: {', '.join(sorted(map(str, generated)))}"
    return None


def _every(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> list[tuple[str, Axes]]:
    return [*inputs.items(), *outputs.items()]


def _is_chosen(axis: int | str | None) -> bool:
    return isinstance(axis, str) and bool(axis) and not _GENERATED.fullmatch(axis)


def _means_batch(axis: int | str | None) -> bool:
    return isinstance(axis, str) and (axis in _BATCH_NAMES or "batch" in axis.lower())
