"""What a file proved at the gate: the checks that it passed, and the answers that were compared. Needs no torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.gate.check import AGREEMENT, PARITY, PassedCheck
from hangtag.export.gate.runtime_answers import REAL
from hangtag.export.gate.speed import Speed
from hangtag.training.data.dataset import Classes, Split

GATE_IMAGES = 10_000
"""So many images of the test split are compared, at most."""


@dataclass(frozen=True)
class GateData:
    """Real images of the test split, and the true classes [n] where each image has one label."""

    images: Pixels
    classes: Classes | None = None
    logits_before: Array | None = None
    """Where a temperature was folded into the file: the logits [n, labels] of the file without it."""

    @classmethod
    def of(cls, test: Split) -> "GateData":
        """Of a test split in which each image has one label."""
        return cls(test.images[:GATE_IMAGES], test.classes[:GATE_IMAGES])


@dataclass(frozen=True)
class Proof:
    """The checks that a file passed, how fast it is, and how PyTorch and the file answered the gate's real images."""

    precision: str
    checks: Sequence[PassedCheck]
    expected: Answers
    """PyTorch's answers, or those of the FP32 file."""
    answered: Answers
    """The file's answers."""
    speed: Speed | None = None
    against: str = "pytorch"
    """What the file was compared with."""

    def figures(self, name: str) -> dict[str, object]:
        """The figures of the check with this name; empty if it was not run."""
        return next((dict(check.figures) for check in self.checks if check.name == name), {})

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        gate = {"precision": self.precision} | {check.name: dict(check.figures) for check in self.checks}
        metadata = {"gate": json.dumps(gate), "parity": json.dumps(self._parity())}
        if (accuracy := self.figures(AGREEMENT).get("accuracy")) is not None:
            metadata["test_accuracy"] = f"{accuracy:.4f}"
        if self.speed is not None:
            metadata["speed"] = json.dumps(self.speed.figures)
        return metadata

    def _parity(self) -> dict[str, object]:
        """In short: how far the answers to real images are from PyTorch's, by batch size."""
        figures = self.figures(PARITY)
        parity: dict[str, object] = {
            "against": self.against,
            "tolerance": figures["limit"],
            "images": len(next(iter(self.expected.values()))),
        }
        for key in ("max_logit_difference", "max_probability_difference"):
            if isinstance(by_kind := figures.get(key), dict):
                parity[key] = by_kind[REAL]
        if "ties" in figures:
            parity["ties"] = figures["ties"]
        return parity

    def __str__(self) -> str:
        return "; ".join(check.summary for check in self.checks)
