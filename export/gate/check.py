"""A check that was passed, and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """name: what a failure would have been called; said: one clause for a person; figures: for a program, as JSON."""

    name: str
    said: str
    figures: Mapping[str, Any] = field(default_factory=dict)
