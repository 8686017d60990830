"""How arrays of every datatype are encoded as raw and as typed contents, and which contents are refused."""

import contextlib
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hangtag.protos import tensors
from hangtag.protos.inference_pb2 import InferTensorContents
from tests.kit.datatypes import FIELDS

pytestmark = pytest.mark.slow

Array = npt.NDArray[Any]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """An array of any datatype and shape."""
    datatype = draw(st.sampled_from(list(tensors.DTYPES)))
    elements = st.binary(max_size=12) if datatype == "BYTES" else None
    return draw(hnp.arrays(tensors.DTYPES[datatype], SHAPES, elements=elements))


def assert_same(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)  # NaN equals NaN


@settings(deadline=None)  # no time limit: the machine runs other tests too
@given(arrays())
def test_raw_contents_come_back(array: Array) -> None:
    assert_same(tensors.from_raw(tensors.datatype_of(array), array.shape, tensors.to_raw(array)), array)


@settings(deadline=None)  # no time limit: the machine runs other tests too
@given(arrays().filter(lambda array: array.dtype != np.float16))
def test_typed_contents_come_back(array: Array) -> None:
    datatype = tensors.datatype_of(array)
    contents = InferTensorContents(**{FIELDS[datatype]: array.ravel().tolist()})
    assert_same(tensors.from_contents(datatype, array.shape, contents), array)


def test_every_datatype_has_a_name_and_a_dtype() -> None:
    assert {datatype: tensors.datatype_of(np.zeros(1, dtype)) for datatype, dtype in tensors.DTYPES.items()} == {
        datatype: datatype for datatype in tensors.DTYPES
    }
    assert set(FIELDS) | {"FP16"} == set(tensors.DTYPES)


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]", [("x", "<f4")]])
def test_a_dtype_that_the_protocol_lacks_is_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match="has no datatype in the protocol; use one of BOOL, UINT8"):
        tensors.datatype_of(np.zeros(1, dtype))


def test_bytes_travel_little_endian_and_row_by_row_whatever_the_arrays_order() -> None:
    assert tensors.to_raw(np.array([1, 2], ">i4")) == b"\1\0\0\0\2\0\0\0"
    assert tensors.datatype_of(np.array([1], ">i4")) == "INT32"
    assert tensors.to_raw(np.arange(6, dtype=np.uint8).reshape(2, 3).T) == bytes([0, 3, 1, 4, 2, 5])


def test_raw_bytes_are_not_copied() -> None:
    raw = bytes(8)
    array = tensors.from_raw("FP32", [2], raw)
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))
    assert not array.flags.writeable


def test_any_byte_but_0_is_true() -> None:
    array = tensors.from_raw("BOOL", [4], b"\0\1\2\xff")
    assert array.dtype == np.bool_
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


sizes = st.one_of(st.integers(-3, 6), st.integers(-(2**63), 2**63 - 1))


@settings(deadline=None)  # no time limit: the machine runs other tests too
@given(st.sampled_from([*tensors.DTYPES, "BF16", ""]), st.lists(sizes, max_size=4), st.binary(max_size=64))
def test_hostile_contents_give_an_array_of_that_shape_or_a_value_error(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    parsers: list[tuple[Any, Any]] = [(tensors.from_raw, raw), (tensors.from_contents, InferTensorContents())]
    for parse, contents in parsers:
        with contextlib.suppress(ValueError):
            array = parse(datatype, shape, contents)
            assert array.shape == tuple(shape)
            assert array.dtype == tensors.DTYPES[datatype]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("BYTES", [1], b"", "1 BYTES elements need at least 4 bytes"),
        ("BYTES", [2**60], b"\0\0\0\0", "elements need at least"),
        ("BYTES", [1], b"\3\0\0\0ab", "element 1 of 1 runs past the end"),
        ("BYTES", [1], b"\xff\xff\xff\xff", "element 1 of 1 runs past the end"),
        ("BYTES", [2], b"\5\0\0\0abcde\1\0", "ends before element 2 of 2"),
        ("BYTES", [1], b"\1\0\0\0ab", "holds 1 bytes after the last of 1 elements"),
        ("BYTES", [0], b"x", "holds 1 bytes after the last of 0 elements"),
        ("UINT8", [-1, -4], bytes(4), "shape [-1, -4] has a negative size"),
        ("FP32", [2**62] * 500_000, b"", "shape has 500000 axes; at most 32 are supported"),  # refused immediately
        ("float32", [1], b"", "unknown datatype 'float32'; known: BOOL"),
    ],
)
def test_raw_contents_that_are_not_of_the_shape_are_refused(
    datatype: str, shape: list[int], raw: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tensors.from_raw(datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("UINT8", [256]), ("UINT16", [65536]), ("INT8", [128, -129]), ("INT16", [32768, -32769])],
)
def test_typed_contents_outside_of_the_datatypes_range_are_refused(datatype: str, values: list[int]) -> None:
    """tests/serving/server/transport tests other invalid contents."""
    field = FIELDS[datatype]
    for value in values:
        contents: dict[str, Any] = {field: [0, value]}
        with pytest.raises(ValueError, match=f"{field} holds values outside {datatype}'s range"):
            tensors.from_contents(datatype, [2], InferTensorContents(**contents))
