"""All checks of a network's file, in order. The first that fails stops the export."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers as answers
from hangtag.export.gate import speed
from hangtag.export.gate.check import Check
from hangtag.export.gate.checks import agreement, batching, contract, cuda, label_path, label_threshold, structure
from hangtag.export.gate.checks import logits as parity
from hangtag.export.gate.runtime_answers import REAL, Answers, Pixels
from hangtag.export.gate.speed import Speed
from hangtag.export.gate.tolerances import RULES
from hangtag.export.network import pytorch_answers as pytorch
from hangtag.export.network.served_network import Classifier, LabelPath, LabelThreshold, Served
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import Classes

ACTIVATIONS = {"softmax": answers.softmax, "sigmoid": answers.sigmoid}


@dataclass(frozen=True)
class Exam:
    """Real images of the test split, uint8 [n, height, width], and the truth [n] where one label is right."""

    images: Pixels
    classes: Classes | None = None


@dataclass(frozen=True)
class Proof:
    """The checks that a file passed, how fast it is, and what PyTorch and the file answered to the exam's images."""

    precision: str
    checks: Sequence[Check]
    speed: Speed | None
    expected: Answers
    answered: Answers

    def figures(self, name: str) -> dict[str, object]:
        """Those of a check; empty for one that there was not."""
        return next((dict(check.figures) for check in self.checks if check.name == name), {})

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix)."""
        gate = {"precision": self.precision} | {check.name: dict(check.figures) for check in self.checks}
        written = {"gate": json.dumps(gate), "parity": json.dumps(self._parity())}
        if (accuracy := self.figures(agreement.NAME).get("accuracy")) is not None:
            written["test_accuracy"] = f"{accuracy:.4f}"
        if self.speed is not None:
            written["speed"] = json.dumps(self.speed.figures)
        return written

    def _parity(self) -> dict[str, object]:
        """In short: how far the answers to real images are from PyTorch's, by batch size."""
        found = self.figures(parity.NAME)
        short: dict[str, object] = {
            "against": "pytorch",
            "tolerance": found["limit"],
            "images": len(next(iter(self.expected.values()))),
        }
        for key in ("max_logit_difference", "max_probability_difference"):
            if isinstance(by_kind := found.get(key), dict):
                short[key] = by_kind[REAL]
        if "ties" in found:
            short["ties"] = found["ties"]
        return short

    def __str__(self) -> str:
        return "; ".join(check.said for check in self.checks)


def prove(
    served: Served, path: Path, exam: Exam, *, precision: str = "fp32", fp32: Path | None = None, timing: str = "none"
) -> Proof:
    """Ask the file at path all that is asked, and compare with PyTorch.

    fp32: the same network in FP32, to time beside. Raises GateError, which names the check and the worst image.
    """
    rules = RULES[precision]
    checks = [structure.check(path)]
    try:
        runtime = Runtime(path, provider="cpu")
    except ModelLoadError as error:
        raise GateError("structure", f"{error}.") from error
    checks.append(contract.check(runtime.signature, served))
    images = {REAL: exam.images} | answers.artificial(served.image_size, served.image_size)
    expected = {kind: pytorch.answer(served, pixels) for kind, pixels in images.items()}
    answers.require_finite(
        np.column_stack([value for value in expected[REAL].values() if np.issubdtype(value.dtype, np.floating)])
    )
    spread = float(np.ptp(expected[REAL]["logits"])) if "logits" in expected[REAL] else 0.0
    ties: frozenset[int] = frozenset()
    if isinstance(served, LabelPath):
        found = label_path.check(served, runtime, images, expected, rules)
        checks, ties = [*checks, found.check], found.ties
    else:
        activation = ACTIVATIONS[served.activation]
        checks.append(parity.check(runtime, images, expected, rules, spread, activation))
    answered = answers.of_file(runtime, exam.images, check=agreement.NAME)
    if isinstance(served, Classifier):
        assert exam.classes is not None
        checks.append(agreement.check(answered["logits"], expected[REAL]["logits"], exam.classes, rules))
    if isinstance(served, LabelThreshold):
        checks.append(
            label_threshold.check(answered["probabilities"], expected[REAL]["probabilities"], served.threshold, rules)
        )
    company = np.concatenate([exam.images[-32:], *(pixels[:16] for kind, pixels in images.items() if kind != REAL)])
    checks.append(batching.check(runtime, exam.images, company, rules, spread, ties))
    checks.append(batching.check_empty(path))
    checks.append(cuda.check(path, exam.images, expected[REAL], rules, spread, ties))
    timed = speed.measure(path, exam.images, served, fp32, timing)
    return Proof(precision, checks, timed, expected[REAL], answered)
