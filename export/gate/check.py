"""Defines the result of a passed check, and the names of the checks in a file's metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRUCTURE = "structure"
CONTRACT = "contract"
PARITY = "parity"
AGREEMENT = "agreement"
CALIBRATION = "calibration"
BATCHING = "batching"
CUDA = "cuda"
PREDECESSOR = "predecessor"
PICTURES = "pictures"
ACCURACY = "accuracy"
NOT_RUN = "not run"
"""The outcome of a check that was not run."""


@dataclass(frozen=True)
class PassedCheck:
    """The result of a check that a file passed, or that was not run. A check that fails raises GateError instead.

    name: one of the names above.
    summary: one clause for the user.
    figures: the measured figures, as JSON values, for programs.
    """

    name: str
    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)
