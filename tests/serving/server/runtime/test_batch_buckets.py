import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.server.runtime.batch_buckets import bucket_for, bucket_sizes, no_fixed_shapes_because
from hangtag.serving.signature import Signature, TensorSpec


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (64, (1, 2, 4, 8, 16, 32, 64)), (65, (1, 2, 4, 8, 16, 32, 64, 65))],
)
def test_the_sizes_double_up_to_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(largest) == sizes


@given(st.integers(1, 4096), st.data())
def test_every_batch_fits_and_less_than_half_is_padding(largest: int, data: st.DataObject) -> None:
    sizes = bucket_sizes(largest)
    samples = data.draw(st.integers(1, largest))
    size = bucket_for(sizes, samples)
    assert size is not None
    assert samples <= size < 2 * samples
    assert bucket_for(sizes, largest + 1) is None
    assert sorted(set(sizes)) == list(sizes)


def spec(name: str, *shape: int | None, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape, ("batch", *[None] * (len(shape) - 1))[: len(shape)])


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([spec("x", None, 2)], [spec("y", None, 3), spec("z", None)], None),
        ([spec("x", 4)], [spec("y", 4)], "its requests are not joined"),
        ([spec("x", None, None)], [spec("y", None)], "input 'x' has free axes besides the batch"),
        ([spec("x", None)], [spec("y", None, None)], "output 'y' has free axes"),
        ([spec("x", None, datatype="BYTES")], [spec("y", None)], "input 'x' has strings"),
    ],
)
def test_whether_the_batch_size_determines_every_buffers_size(
    inputs: list[TensorSpec], outputs: list[TensorSpec], reason: str | None
) -> None:
    problem = no_fixed_shapes_because(Signature(tuple(inputs), tuple(outputs)))
    assert problem is None if reason is None else problem is not None and problem.startswith(reason)
