"""Counts that add up over processes: dataclasses that are combined field by field, and Prometheus histograms.

Histograms have fixed bucket bounds, so that they also add up over machines and time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import add
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

SECONDS_BOUNDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

T = TypeVar("T", bound="Mergeable")

_RULE = "merge"


def merged_by(rule: Callable[[Any, Any], Any]) -> Mapping[str, Any]:
    """Return the metadata of a dataclass field that is merged by this rule, such as ``max``."""
    return {_RULE: rule}


def first(one: Any, other: Any) -> Any:
    """Return the first process's value, or the second process's value if the first value is empty. This rule is for
    fields that are no counts."""
    return other if one is None else one


def merge(one: Any, other: Any) -> Any:
    """Combine a field's values from two processes. Fields that declare no rule have this rule.

    Numbers are added, including numbers in tuples. Mappings are joined, and values of the same key are combined. The
    merge of two texts is the non-empty text, and the merge of two booleans is a logical or. None is ignored.
    """
    match one:
        case None:
            return other
        case bool() | str():
            return one or other
        case Mapping():
            return {**one, **other, **{key: merge(one[key], other[key]) for key in one.keys() & other.keys()}}
        case tuple():
            return tuple(map(add, one, other))
        case _:
            return one if other is None else one + other


class Mergeable:
    """Base of dataclasses whose instances from two processes are combined by ``+``."""

    def __add__(self: T, other: T) -> T:
        values = (
            each.metadata.get(_RULE, merge)(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        )
        return type(self)(*values)


@dataclass(frozen=True)
class BucketHistogram(Mergeable):
    """The counts of a histogram at one moment.

    Attributes:
        bounds: Inclusive upper bounds of the buckets, ascending.
        counts: Number of values in each bucket (not cumulative); the last entry counts values above the highest bound.
        sum: Sum of all values.
    """

    bounds: tuple[float, ...] = field(metadata=merged_by(first))
    counts: tuple[int, ...]
    sum: float

    @classmethod
    def of(cls, bounds: tuple[float, ...], values: npt.ArrayLike = ()) -> "BucketHistogram":
        """Return the histogram of these values."""
        array = np.asarray(values, np.float64)
        counts = np.bincount(np.searchsorted(bounds, array), minlength=len(bounds) + 1)
        return cls(bounds, tuple(counts.tolist()), float(array.sum()))

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)
