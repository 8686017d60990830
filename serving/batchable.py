"""May requests be joined along the first axis? What a graph's inputs and outputs say about it, by themselves.

That is a first answer only. A graph can name its axes as it likes: whether an answer stays the same in company is
proven by asking, which `hangtag export --onnx` does. It writes its verdict into the file, as ``hangtag.batched``.
"""

from collections.abc import Mapping, Sequence

Axes = Sequence[int | str | None]
"""A shape as ONNX Runtime tells it: a size, the name of a free axis, or None where a free one has no name."""


def obstacle(inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]) -> str | None:
    """Why a graph with these inputs and outputs may not be batched, for a person to read; None where it may.

    Every first axis must be free, and where they are named they must have one name, which stands for no other axis: n
    images in may not give m rows out, and a batch that is two axes of one input cannot be cut.
    """
    if not inputs:
        return "it has no input"
    every = [*inputs.items(), *outputs.items()]
    for name, axes in every:
        if not axes:
            return f"{name!r} has no axis"
        if _size(axes[0]) is not None:
            return f"the first axis of {name!r} is fixed to {axes[0]}"
    first = {_name(axes[0]) for _, axes in every} - {None}
    if len(first) > 1:
        return f"first axes have different names: {', '.join(sorted(map(str, first)))}"
    for name, axes in every:
        if any(_name(axis) in first for axis in axes[1:]):
            return f"{name!r} has the batch in two axes"
    return None


def _size(axis: int | str | None) -> int | None:
    return axis if isinstance(axis, int) and axis >= 0 else None


def _name(axis: int | str | None) -> str | None:
    """None for an axis without a name, and for the names that converters make up, one for each axis."""
    return axis if isinstance(axis, str) and axis and not axis.startswith("unk__") else None
