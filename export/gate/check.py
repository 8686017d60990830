"""A check that did not fail, and the names of the checks in the metadata of every exported file."""

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
    """A check that a file passed, or that was not run. A check that fails raises GateError instead.

    name: one of the names above.
    summary: one clause for the user.
    figures: what was measured, as JSON values, for programs.
    """

    name: str
    summary: str
    figures: Mapping[str, Any] = field(default_factory=dict)
