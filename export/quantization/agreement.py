"""Judge whether two files give the same answer to a sample.

Each output is compared by a rule. If an output has a score for each label, both files must give the largest score to
the same label, row by row. Other numbers, such as a probability of speech or a recurrent state, must be close.
Integers, booleans and texts must be equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from hangtag.export.errors import ExportError
from hangtag.export.network_arrays import Answers, Array
from hangtag.serving.signature import Signature, TensorSpec

LABELS, VALUES, EQUAL = "labels", "values", "equal"
RULES = (LABELS, VALUES, EQUAL)
WITHIN = 0.05
"""For the rule ``values``: the largest root mean square of the differences, as a share of the output's spread."""


@dataclass(frozen=True)
class Agreement:
    """The number of samples for which two files give the same answer, and the number of all samples."""

    agreeing: int
    samples: int

    @property
    def share(self) -> float:
        return self.agreeing / self.samples

    @property
    def at_least(self) -> float:
        """With 95 % confidence, at least this share of all possible samples gets the same answer (Wilson's bound)."""
        z, n = 1.645, self.samples
        centre = self.share + z * z / (2 * n)
        return (centre - z * sqrt(self.share * (1 - self.share) / n + z * z / (4 * n * n))) / (1 + z * z / n)

    def __str__(self) -> str:
        return f"both files give the same answer to {self.share:.2%} of {self.samples:,} samples"


@dataclass(frozen=True)
class Comparison:
    """Compares answers with those of the original file."""

    expected: Sequence[Answers]
    """The original file's answers to each sample."""
    rules: Mapping[str, str]
    """Output -> one of RULES. Outputs without a rule are not compared."""
    spreads: Mapping[str, float] = field(init=False)
    """Output -> the difference between its largest and its smallest number, over all samples."""

    def __post_init__(self) -> None:
        spreads = {}
        for name, rule in self.rules.items():
            if rule != EQUAL:
                values = np.concatenate([np.ravel(answers[name]) for answers in self.expected]).astype(np.float64)
                if not np.isfinite(values).all():
                    raise ExportError(
                        f"the original's own output {name!r} is not finite for some samples; nothing can be compared."
                    )
                spreads[name] = max(float(np.ptp(values)), 1e-12)
        object.__setattr__(self, "spreads", spreads)

    def agreement(self, answered: Sequence[Answers]) -> Agreement:
        """Count the samples for which every compared output agrees with the original's."""
        alike = [
            all(self._alike(name, answers[name], expected[name]) for name in self.rules)
            for answers, expected in zip(answered, self.expected, strict=True)
        ]
        return Agreement(sum(alike), len(alike))

    def distance(self, answered: Sequence[Answers]) -> float:
        """Return the root mean square of the differences from the original, as a share of an output's spread, averaged
        over samples and outputs."""
        distances = [
            _root_mean_square(answers[name], expected[name]) / self.spreads[name]
            for answers, expected in zip(answered, self.expected, strict=True)
            for name in self.spreads
        ]
        return float(np.mean(distances)) if distances else 0.0

    def _alike(self, name: str, actual: Array, expected: Array) -> bool:
        if actual.shape != expected.shape:
            return False
        if self.rules[name] == EQUAL:
            return bool(np.array_equal(actual, expected))
        if self.rules[name] == LABELS:
            finite = bool(np.isfinite(actual).all())
            return finite and bool(np.array_equal(actual.argmax(axis=-1), expected.argmax(axis=-1)))
        return _root_mean_square(actual, expected) <= WITHIN * self.spreads[name]


def _root_mean_square(actual: Array, expected: Array) -> float:
    """Return the root mean square of the differences; infinity if the shapes differ or a number is not finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return sqrt(float(np.mean((actual.astype(np.float64) - expected) ** 2)))


def parse(texts: Sequence[str]) -> dict[str, str]:
    """Read rules of the form OUTPUT=RULE. Raises ExportError if a text is malformed."""
    parsed = {}
    for text in texts:
        output, _, rule = text.rpartition("=")
        if not output or rule not in RULES:
            raise ExportError(f"--agree-on {text}: give OUTPUT={'|'.join(RULES)}.")
        parsed[output] = rule
    return parsed


def rules(signature: Signature, answers: Sequence[Answers], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the rule for each output that is compared.

    Args:
        answers: the original file's answers, which show whether an output holds label scores.
        chosen: the user's rules; if the user gives none, every output is compared by the rule that suits it.

    Raises:
        ExportError: an output of ``chosen`` does not exist, or its rule does not suit the output.
    """
    outputs = {spec.name: spec for spec in signature.outputs}
    for name, rule in chosen.items():
        if name not in outputs:
            raise ExportError(f"--agree-on {name}: the model has no such output; it has {', '.join(outputs)}.")
        if (rule != EQUAL) != outputs[name].datatype.startswith("FP") or (rule == LABELS and not outputs[name].shape):
            raise ExportError(f"--agree-on {name}={rule} does not fit the output {outputs[name]}.")
    return dict(chosen) or {name: _fitting(spec, [each[name] for each in answers]) for name, spec in outputs.items()}


def _fitting(spec: TensorSpec, answers: Sequence[Array]) -> str:
    """Return the rule for an output. Floats are taken for label scores if they have two axes, or rows that sum to 1."""
    if not spec.datatype.startswith("FP"):
        return EQUAL
    labels = spec.shape[-1] if len(spec.shape) >= 2 else None
    if labels is None or labels < 2:
        return VALUES
    sums_to_one = all(bool((each >= 0).all()) and np.allclose(each.sum(axis=-1), 1, atol=1e-3) for each in answers)
    return LABELS if len(spec.shape) == 2 or sums_to_one else VALUES
