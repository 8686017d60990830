"""A few batch sizes instead of any: what buffers at fixed addresses, and graphs captured with them, ask for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.signature import Signature, TensorSpec


def bucket_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4 and so on, and the largest itself: less than half of what is computed is ever padding."""
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def bucket_for(sizes: Sequence[int], samples: int) -> int | None:
    """The smallest of the sizes, which ascend, that holds so many samples; None where none does."""
    return next((size for size in sizes if size >= samples), None)


def pad(target: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
    """Write rows, at least one, into the target's first, and the last of them again into the rest.

    A caller's own values, because a model may refuse others: an index that is out of range, for one.
    """
    count = len(rows)
    target[:count] = rows
    target[count:] = rows[-1]


def doubt(signature: Signature) -> str | None:
    """Why a batch's size does not tell the size of every buffer; None where it does."""
    if not signature.batched:
        return "its requests are not joined into batches"
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.datatype == "BYTES":
                return f"{kind} {spec.name!r} has strings, which stay in the host's memory"
            if None in spec.shape[1:]:
                return f"{kind} {spec.name!r} has sizes that a batch's size does not tell: {spec}"
    return None


def shape_of(spec: TensorSpec, samples: int) -> tuple[int, ...]:
    """The shape of so many samples of an input or output of which the first axis alone is free."""
    return (samples, *(size or 1 for size in spec.shape[1:]))


def random_rows(shape: Sequence[int], dtype: np.dtype[Any], seed: int) -> npt.NDArray[Any]:
    """Values to compare answers with: any byte, 0 to 1 for real numbers, 0 or 1 where a number may be an index."""
    generator = np.random.default_rng(seed)
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    return generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)
