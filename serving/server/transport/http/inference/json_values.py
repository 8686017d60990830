"""Convert numpy arrays to and from the values of JSON: flat or nested lists of numbers, truth values or texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.protos import tensors

Array = npt.NDArray[Any]

_TYPES: dict[str, frozenset[type]] = {"b": frozenset({bool}), "O": frozenset({str}), "f": frozenset({int, float})}
_WHOLE: frozenset[type] = frozenset({int})
_NAMES = {"b": "true or false", "O": "texts", "f": "numbers"}


def from_json(datatype: str, shape: Sequence[int], data: object) -> Array:
    """Return the array of a tensor whose values stand in the JSON; BYTES become str.

    Args:
        datatype: The protocol's name, such as "FP32"; FP16 has no values in JSON.
        shape: The size of each axis.
        data: The parsed values, row-major: one flat list, or lists nested as the shape says.

    Raises:
        ValueError: The datatype is unknown, the shape is not valid, or the values fit neither of them.
    """
    if datatype == "FP16":
        raise ValueError("FP16 has no values in JSON; send it as binary data")
    if datatype not in tensors.DTYPES:
        raise ValueError(f"unknown datatype {datatype!r}; known: {', '.join(tensors.DTYPES)}")
    count = tensors.element_count(shape)
    values = _flat(data, shape)
    if len(values) != count:
        raise ValueError(f"{datatype} {list(shape)} needs {count} values in data, got {len(values)}")
    kind = tensors.DTYPES[datatype].kind
    if not _TYPES.get(kind, _WHOLE).issuperset(map(type, values)):
        raise ValueError(f"data of {datatype} must be {_NAMES.get(kind, 'whole numbers')}")
    if kind == "O":
        "".join(values).encode()  # raises UnicodeEncodeError, a ValueError, for half of a surrogate pair
        texts = np.empty(count, np.object_)
        texts[:] = values
        return texts.reshape(shape)
    with np.errstate(over="ignore"):  # it becomes infinity, which is refused
        array = tensors.from_numbers(datatype, shape, values, "data")
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"data holds numbers outside {datatype}'s range; send infinity and NaN as binary data")
    return array


def to_json(array: Array) -> list[Any]:
    """Return the values of an array, row-major, as one flat list.

    Raises:
        ValueError: JSON does not have such values: FP16, infinity, NaN, or bytes that are not UTF-8.
    """
    if array.dtype.kind in "OSU":
        return [value.decode() if isinstance(value, bytes) else str(value) for value in array.flat]
    if array.dtype == np.float16:
        raise ValueError("FP16 has no values in JSON")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("the values hold infinity or NaN, which JSON does not have")
    values: list[Any] = array.ravel().tolist()
    return values


def _flat(data: object, shape: Sequence[int]) -> list[Any]:
    """Return nested lists as one list. Raises ValueError where they are nested otherwise than the shape says."""
    values: list[Any] = [data]
    axis = 0
    if type(data) is list and (not data or type(data[0]) is not list):
        return data  # flat
    while axis == 0 or (values and type(values[0]) is list):
        if axis == len(shape) or any(type(each) is not list or len(each) != shape[axis] for each in values):
            raise ValueError(f"data must be one flat list, or lists nested as the shape {list(shape)} says")
        values = [value for each in values for value in each]
        axis += 1
    if axis != len(shape):
        raise ValueError(f"data must be one flat list, or lists nested as the shape {list(shape)} says")
    return values
