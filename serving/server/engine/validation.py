"""Checks that a request fits the model, before it is queued, so that a bad request never joins a batch."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy.typing as npt

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.signature import Signature, TensorSpec

Arrays = Mapping[str, npt.NDArray[Any]]


def count_samples(
    signature: Signature,
    inputs: Arrays,
    datatypes: Mapping[str, str],
    max_batch_size: int,
    *,
    no_empty_because: str = "",
    max_bytes: int = 1 << 24,
) -> int:
    """Check a request, and return its number of samples: the inputs' common first size, or 1 without a batch axis.

    Args:
        signature: Of the model.
        inputs: The request's arrays by name.
        datatypes: The protocol's datatype of each input, for example "FP32".
        max_batch_size: Most samples that one request may have, where the model has a batch axis.
        no_empty_because: Why the model must get no axis of size 0; empty where it may.
        max_bytes: What an empty tensor may have at most if each empty axis had size 1.

    Raises:
        InvalidRequestError: Names, datatypes or shapes do not fit; an axis has a size of 0 that the model must not get;
            or there are too many samples.
    """
    for name in inputs:
        if signature.input(name) is None:
            raise InvalidRequestError(f"unknown input {name!r}; the model takes {_list(signature.inputs)}")
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise InvalidRequestError(f"input {spec.name!r} is missing; the model takes {_list(signature.inputs)}")
        if datatypes[spec.name] != spec.datatype:
            raise InvalidRequestError(f"input {spec.name!r} is {datatypes[spec.name]}; the model takes {spec}")
        shape = inputs[spec.name].shape
        fits = len(shape) == len(spec.shape) and all(
            expected in (None, size) for expected, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise InvalidRequestError(f"input {spec.name!r} has shape {list(shape)}; the model takes {spec}")
    if any(0 in array.shape for array in inputs.values()):
        _require_fit_for_empty(signature, inputs, no_empty_because, max_bytes)
    return _batch_size(signature, inputs, max_batch_size) if signature.batched else 1


def batch_key(signature: Signature, inputs: Arrays) -> Hashable:
    """Return what requests must have in common to share a batch: the sizes of all free axes but the batch axis."""
    if all(None not in spec.shape[1:] for spec in signature.inputs):
        return None
    return tuple(inputs[spec.name].shape[1:] for spec in signature.inputs)


def _require_fit_for_empty(signature: Signature, inputs: Arrays, no_empty_because: str, max_bytes: int) -> None:
    """Check a request of which at least one axis has size 0."""
    sizes: dict[str, int] = {}  # of the axes with a name, which the graph's optimisations take for equal
    for spec in signature.inputs:
        array = inputs[spec.name]
        problem = f"input {spec.name!r} has shape {list(array.shape)}; "
        if 0 in array.shape:
            if signature.batched and array.shape[0] == 0:
                raise InvalidRequestError(f"{problem}the first axis is the batch, and a request has at least 1 sample")
            if no_empty_because:
                raise InvalidRequestError(f"{problem}every size must be at least 1: {no_empty_because}")
            size = math.prod(size or 1 for size in array.shape) * array.itemsize
            if size > max_bytes:  # the answer may be as large: a sum over the empty axis is
                raise InvalidRequestError(
                    f"{problem}with 1 in place of 0 it would have {size:,} bytes, and {max_bytes:,} are the most"
                )
        for symbol, size in zip(spec.symbols, array.shape, strict=True):
            known = sizes.setdefault(symbol, size) if symbol else size
            if known != size and not known * size:
                raise InvalidRequestError(f"{problem}where one axis called {symbol!r} has size 0, each must have it")


def _batch_size(signature: Signature, inputs: Arrays, max_batch_size: int) -> int:
    sizes = {spec.name: inputs[spec.name].shape[0] for spec in signature.inputs}
    samples: int = sizes[signature.inputs[0].name]
    if any(size != samples for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InvalidRequestError(f"the inputs' batch sizes differ: {listed}")
    if samples > max_batch_size:
        raise InvalidRequestError(
            f"{samples} samples in one request; the model takes at most {max_batch_size}. "
            "Send them in several requests."
        )
    return samples


def _list(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(str(spec) for spec in specs)
