"""Does a request fit the model? Checked before admission, so that a bad request never joins a batch."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy.typing as npt

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.signature import Signature, TensorSpec

Arrays = Mapping[str, npt.NDArray[Any]]


def count_samples(signature: Signature, inputs: Arrays, datatypes: Mapping[str, str], max_batch_size: int) -> int:
    """How many samples a request holds: the inputs' common first size, or 1 where the model has no batch axis.

    datatypes: the protocol's name of each input's datatype. Raises InvalidRequestError when the request does not fit.
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
            wanted in (None, size) for wanted, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise InvalidRequestError(f"input {spec.name!r} has shape {list(shape)}; the model takes {spec}")
        if 0 in shape:
            # ONNX Runtime aborts the whole process on an LSTM with batch 0, whichever of its axes the batch is.
            raise InvalidRequestError(f"input {spec.name!r} has shape {list(shape)}; every size must be at least 1")
    return _batch_size(signature, inputs, max_batch_size) if signature.batched else 1


def batch_key(signature: Signature, inputs: Arrays) -> Hashable:
    """What requests must agree on to share a batch: the sizes of their free axes, the batch axis aside."""
    if all(None not in spec.shape[1:] for spec in signature.inputs):
        return None
    return tuple(inputs[spec.name].shape[1:] for spec in signature.inputs)


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
