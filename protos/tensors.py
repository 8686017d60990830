"""Convert numpy arrays to and from the protocol's raw bytes and typed contents.

Source: the Open Inference Protocol, "Tensor Data", and Triton's raw_input_contents.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2

Array = npt.NDArray[Any]

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
"""The protocol's datatypes, each with its little-endian numpy dtype."""
# The field of InferTensorContents that holds the elements of a datatype. FP16 has no field.
_CONTENTS_FIELDS = {
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
"""The largest number of axes of a tensor. Some versions of numpy fail with more than 32 axes."""
_INT64_MAX = np.iinfo(np.int64).max
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """Return the protocol's datatype of an array. The datatype of strings and objects is BYTES.

    Raises:
        ValueError: The protocol has no datatype for the array's dtype, for example for complex numbers.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    name = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(f"dtype {array.dtype} has no datatype in the protocol; use one of {', '.join(DTYPES)}")
    return name


def from_raw(datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Return the array that raw bytes encode.

    Except for BOOL and BYTES, the array is read-only and shares the memory of ``raw``.

    Args:
        datatype: The protocol's name, such as "FP32".
        shape: The size of each axis.
        raw: The elements, little-endian and row-major. For BYTES, `to_raw` describes how an element is encoded.

    Raises:
        ValueError: One of: the datatype is unknown; the shape is not valid; the number of bytes does not match
            the datatype and the shape.
    """
    count = element_count(shape)
    if datatype == "BYTES":
        return _unpack_bytes(raw, count).reshape(shape)
    dtype = _dtype(datatype)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"{datatype} {list(shape)} needs {count * dtype.itemsize} bytes, got {len(raw)}")
    array = np.frombuffer(raw, dtype)
    if datatype == "BOOL":
        array = array.view(np.uint8) != 0  # numpy does not define a bool whose byte is neither 0 nor 1
    return array.reshape(shape)


def from_contents(datatype: str, shape: Sequence[int], contents: inference_pb2.InferTensorContents) -> Array:
    """Return the array that typed contents encode.

    Args:
        datatype: The protocol's name, such as "FP32"; FP16 has no typed contents.
        shape: The size of each axis.
        contents: The elements, row-major. Only the field that matches the datatype may hold elements.

    Raises:
        ValueError: One of: the datatype is unknown; the shape is not valid; elements are in another field; the number
            of elements does not match the shape; a value is out of the datatype's range.
    """
    count = element_count(shape)
    _dtype(datatype)
    field = _CONTENTS_FIELDS.get(datatype)
    if field is None:
        raise ValueError(f"{datatype} has no typed contents in the protocol; send it as raw_input_contents")
    values = getattr(contents, field)
    others = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]
    if len(values) != count or others:
        raise ValueError(
            f"{datatype} {list(shape)} needs {count} elements in {field}, got {len(values)}"
            + (f" (and some in {', '.join(others)})" if others else "")
        )
    return from_numbers(datatype, shape, values, field)


def from_numbers(datatype: str, shape: Sequence[int], values: Sequence[Any], where: str) -> Array:
    """Convert Python numbers, truth values or bytes to an array. The caller checks that the count matches the shape.

    Args:
        datatype: The protocol's name, such as "UINT8".
        shape: The size of each axis.
        values: The elements, row-major, in the Python type that corresponds to the datatype.
        where: Where the values come from, such as the name of a field; for the error message.

    Raises:
        ValueError: A number is out of the datatype's range.
    """
    dtype = DTYPES[datatype]
    limits: Any = np.iinfo(dtype.name) if dtype.kind in "iu" else None
    problem = f"{where} holds values outside {datatype}'s range" + (f" {limits.min} to {limits.max}" if limits else "")
    try:
        # Use the widest integers first: without a dtype, numpy turns a mix of small and huge integers into float64.
        wide = np.array(values, {"i": np.int64, "u": np.uint64}.get(dtype.kind, dtype))
    except OverflowError as error:  # an integer has more than 64 bits, or is negative for an unsigned type
        raise ValueError(problem) from error
    if limits and wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise ValueError(problem)
    # numpy 1 turns -1 into the largest UINT64 instead of raising an OverflowError.
    if datatype == "UINT64" and (wide > _INT64_MAX).any() and (np.array(values, np.object_) < 0).any():
        raise ValueError(problem)
    return wide.astype(dtype, copy=False).reshape(shape)


def output(response: inference_pb2.ModelInferResponse, index: int) -> Array:
    """Return one output of a response as an array, from raw bytes or typed contents.

    Args:
        response: A server's response, in which either all outputs have raw contents, or none has.
        index: The index of the output among the response's outputs.

    Raises:
        ValueError: The number of raw contents differs from the number of outputs, or the output is malformed (see
            `from_raw` and `from_contents`).
    """
    tensor, raw = response.outputs[index], response.raw_output_contents
    if not raw:
        return from_contents(tensor.datatype, tensor.shape, tensor.contents)
    if len(raw) != len(response.outputs):
        raise ValueError(f"the response has {len(response.outputs)} outputs but {len(raw)} raw_output_contents")
    return from_raw(tensor.datatype, tensor.shape, raw[index])


def to_raw(array: Array) -> bytes:
    """Return the raw bytes of an array, little-endian and row-major.

    A BYTES element becomes four bytes with its length, then the bytes of the element.

    Raises:
        ValueError: An element of BYTES is text that UTF-8 cannot encode, or is None, a list, a tuple, a dict or an
            array.
    """
    if array.dtype.kind in "OSU":
        return b"".join(_pack_element(element) for element in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def element_count(shape: Sequence[int]) -> int:
    """Return a shape's number of elements. Raises ValueError for a negative size or for more than MAX_RANK axes."""
    if len(shape) > MAX_RANK:  # checked first, because multiplying a million huge sizes takes minutes
        raise ValueError(f"shape has {len(shape)} axes; at most {MAX_RANK} are supported")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)} has a negative size")
    return math.prod(shape)


def _dtype(datatype: str) -> np.dtype[Any]:
    try:
        return DTYPES[datatype]
    except KeyError:
        raise ValueError(f"unknown datatype {datatype!r}; known: {', '.join(DTYPES)}") from None


def _pack_element(element: object) -> bytes:
    # for example, a ragged array has lists as elements
    if element is None or isinstance(element, list | tuple | dict | np.ndarray):
        raise ValueError(f"an element of BYTES must be bytes or text, not {type(element).__name__}")
    try:
        data = element if isinstance(element, bytes) else str(element).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"an element of BYTES is text that UTF-8 cannot encode: {str(element)!r:.80}") from error
    return struct.pack("<I", len(data)) + data


def _unpack_bytes(raw: bytes, count: int) -> npt.NDArray[np.object_]:
    # Each element takes at least four bytes (its length), so a huge count is refused before memory is allocated.
    if len(raw) < 4 * count:
        raise ValueError(f"{count} BYTES elements need at least {4 * count} bytes, got {len(raw)}")
    elements = np.empty(count, np.object_)
    offset = 0
    for index in range(count):
        if offset + 4 > len(raw):
            raise ValueError(f"BYTES data ends before element {index + 1} of {count}")
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4
        if offset + length > len(raw):
            raise ValueError(f"BYTES data: element {index + 1} of {count} runs past the end")
        elements[index] = raw[offset : offset + length]
        offset += length
    if offset != len(raw):
        raise ValueError(f"BYTES data holds {len(raw) - offset} bytes after the last of {count} elements")
    return elements
