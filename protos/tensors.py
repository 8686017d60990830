"""How a tensor travels: numpy arrays to and from the protocol's raw bytes and typed contents.

Source: the Open Inference Protocol, "Tensor Data" and Triton's raw_input_contents.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2

Array = npt.NDArray[Any]

# Datatype -> numpy's little-endian dtype, and the field of InferTensorContents that carries it (FP16 has none).
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
MAX_RANK = 32
"""Sizes in a shape, as many as every version of numpy takes."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's dtype; strings and objects are BYTES. Raises ValueError for one it lacks."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"dtype {array.dtype} has no datatype in the protocol; use one of {', '.join(DTYPES)}")
    return name


def from_raw(datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """An array of this datatype and shape over raw bytes, without a copy where there can be none (so read-only).

    Raises ValueError when the bytes are not exactly what datatype and shape need.
    """
    count = _element_count(shape)
    if datatype == "BYTES":
        return _unpack_bytes(raw, count).reshape(shape)
    dtype = _dtype(datatype)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(
            f"{datatype} {list(shape)} needs {count * dtype.itemsize} bytes of raw contents, got {len(raw)}"
        )
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        array = array.view(np.uint8) != 0  # any other byte than 0 and 1 is a bool that no library counts on
    return array.reshape(shape)


def from_contents(datatype: str, shape: Sequence[int], contents: inference_pb2.InferTensorContents) -> Array:
    """An array from typed contents. Raises ValueError for another field, a wrong count, or a value out of range."""
    count = _element_count(shape)
    dtype = _dtype(datatype)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise ValueError(f"{datatype} has no typed contents in the protocol; send it as raw_input_contents")
    values = getattr(contents, field)
    others = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]
    if len(values) != count or others:
        raise ValueError(
            f"{datatype} {list(shape)} needs {count} elements in {field}, got {len(values)}"
            + (f" (and some in {', '.join(others)})" if others else "")
        )
    # Widest first: left to itself numpy makes float64 of small and huge integers together.
    wide = np.array(values, {"i": np.int64, "u": np.uint64}.get(dtype.kind, dtype))
    if dtype.kind in "iu" and count:
        limits = np.iinfo(dtype.name)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise ValueError(f"{field} holds values outside {datatype}'s range {limits.min} to {limits.max}")
    return wide.astype(dtype, copy=False).reshape(shape)


def to_raw(array: Array) -> bytes:
    """Raw bytes, little-endian and row-major. A BYTES element is its length in four bytes, then its bytes."""
    if array.dtype.kind in "OSU":
        return b"".join(_pack_element(element) for element in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _dtype(datatype: str) -> np.dtype[Any]:
    try:
        return DTYPES[datatype]
    except KeyError:
        raise ValueError(f"unknown datatype {datatype!r}; known: {', '.join(DTYPES)}") from None


def _element_count(shape: Sequence[int]) -> int:
    if len(shape) > MAX_RANK:  # also before multiplying: a million huge sizes would take minutes
        raise ValueError(f"shape has {len(shape)} sizes; at most {MAX_RANK} can be")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)} has a negative size")
    return math.prod(shape)


def _pack_element(element: object) -> bytes:
    data = element if isinstance(element, bytes) else str(element).encode()
    return struct.pack("<I", len(data)) + data


def _unpack_bytes(raw: bytes, count: int) -> npt.NDArray[np.object_]:
    # Each element takes four bytes at least: refuse a huge count before making room for it.
    if len(raw) < 4 * count:
        raise ValueError(f"{count} BYTES elements need at least {4 * count} bytes of raw contents, got {len(raw)}")
    elements = np.empty(count, np.object_)
    offset = 0
    for index in range(count):
        if offset + 4 > len(raw):
            raise ValueError(f"raw BYTES contents end before element {index + 1} of {count}")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > len(raw):
            raise ValueError(f"raw BYTES contents: element {index + 1} of {count} runs past the end")
        elements[index] = raw[offset : offset + length]
        offset += length
    if offset != len(raw):
        raise ValueError(f"raw BYTES contents hold {len(raw) - offset} bytes after the last of {count} elements")
    return elements
