"""May requests be joined along the first axis? What a graph's inputs and outputs say about it, by themselves.

Three questions, each stricter than the one before:

    impossibility   could they be joined at all? What the operator, or the file's own word, may allow
    obstacle        is it worth trying? What is then proven by asking: the same inputs alone and together, which
                    `hangtag export --onnx` does; its verdict becomes the file's own word, ``hangtag.batched``
    doubt           would it be right without a proof? A wrong yes mixes up callers' answers, a wrong no costs speed

Exporters give input and output batch axes different names, or none: only a name that somebody chose says something.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Axes: TypeAlias = Sequence[int | str | None]
"""A shape as ONNX Runtime tells it: a size, the name of a free axis, or None where a free one has no name."""

# N is ONNX's own letter for the batch (NCHW); a small n may be a number of anything.
_BATCH_NAMES = ("N", "B", "bs")
# Names that exporters make up for an axis nobody named: tf2onnx's, torch.onnx's (two kinds), Paddle2ONNX's.
_MADE_UP = re.compile(r"unk__\d+|.*_dim_\d+|[su]\d+|DynamicDimension\.\d+|\?", re.DOTALL)


def impossibility(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Why requests cannot be joined, for a person to read: there is no first axis everywhere, or it is fixed."""
    if not inputs:
        return "it has no input"
    for name, axes in _every(inputs, outputs):
        if not axes:
            return f"{name!r} has no axis"
        if _is_fixed(axes[0]):
            return f"the first axis of {name!r} is fixed to {axes[0]}"
    return None


def obstacle(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Why the graph may not be batched; None where it may, as far as it tells.

    n images in may not give m rows out, and a batch that is two axes of one input cannot be cut.
    """
    impossible = impossibility(inputs, outputs)
    if impossible:
        return impossible
    every = _every(inputs, outputs)
    names = [axes[0] for _, axes in every]
    meant = {"batch" if _means_batch(name) else name for name in names if _is_chosen(name)}
    if len(meant) > 1:
        return f"first axes have different names: {', '.join(sorted(map(str, meant)))}"
    for name, axes in every:
        twice = next((axis for axis in axes[1:] if isinstance(axis, str) and axis and axis in names), None)
        if twice is not None:
            return f"{name!r} has the batch in two axes"
    return None


def doubt(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Why the graph had better not be batched without a proof; None where all speaks for it.

    A first axis that somebody called otherwise, such as a sequence's length, need not be the batch; one that stands
    before an axis called so ([length, batch, features]) is not; and inputs that may differ in size have none in common.
    """
    hindered = obstacle(inputs, outputs)
    if hindered:
        return hindered
    for name, axes in _every(inputs, outputs):
        if _is_chosen(axes[0]) and not _means_batch(axes[0]):
            return f"the first axis of {name!r} is called {axes[0]!r}, which need not be the batch"
        other = next((axis for axis in axes[1:] if isinstance(axis, str) and "batch" in axis.lower()), None)
        if other is not None:
            return f"{other!r} is not the first axis of {name!r}"
    made_up = {axes[0] for axes in inputs.values() if not _is_chosen(axes[0])}
    if len(made_up) > 1:
        return f"the first axes of its inputs may differ in size: {', '.join(sorted(map(str, made_up)))}"
    return None


def _every(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> list[tuple[str, Axes]]:
    return [*inputs.items(), *outputs.items()]


def _is_fixed(axis: int | str | None) -> bool:
    return isinstance(axis, int) and axis >= 0


def _is_chosen(axis: int | str | None) -> bool:
    return isinstance(axis, str) and bool(axis) and not _MADE_UP.fullmatch(axis)


def _means_batch(axis: int | str | None) -> bool:
    return isinstance(axis, str) and (axis in _BATCH_NAMES or "batch" in axis.lower())
