import numpy as np
import pytest

from hangtag.serving.server.runtime.arrays import pad, random_rows


def test_padding_repeats_the_last_row_over_whatever_was_there() -> None:
    target = np.full((4, 2), 9)
    pad(target, np.array([[1, 2], [3, 4]]))
    assert target.tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    pad(target, np.array([[5, 6]] * 4))
    assert target.tolist() == [[5, 6]] * 4


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest"), [("float16", 0, 1), ("uint8", 0, 255), ("int64", 0, 1), ("bool", 0, 1)]
)
def test_random_rows_are_in_range_and_differ_by_seed(dtype: str, lowest: int, highest: int) -> None:
    rows, others = (random_rows((5, 20), np.dtype(dtype), seed) for seed in (1, 2))
    assert rows.dtype == dtype
    assert rows.min() >= lowest
    assert rows.max() <= highest
    assert (rows != others).any()
