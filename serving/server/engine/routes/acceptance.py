"""Decides for each sample whether a member of a cascade is sure enough of its answer."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.signature import Signature

RULES = {"at_least": 1.0, "margin_at_least": 1.0, "entropy_at_most": 64.0}
"""Rule -> the largest bound that makes sense: of the highest probability, of the difference of the two highest, and of
the entropy of the whole distribution in bits."""
LOGITS = "logits"
"""The output of hangtag's models before the softmax: of the probabilities' shape, and none."""
FLOATS = ("FP16", "FP32", "FP64")
"""Datatypes of probabilities."""


@dataclass(frozen=True)
class Acceptance:
    """A rule on an output of probabilities [batch, labels]. rule: one of RULES."""

    output: str
    rule: str
    bound: float

    def accepts(self, probabilities: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each sample is accepted. A sample with a NaN is not.

        Args:
            probabilities: FP16, FP32 or FP64 [batch, labels], at least two labels.

        Returns:
            [batch].
        """
        if self.rule == "at_least":
            return np.asarray(probabilities.max(axis=1) >= self.bound)
        if self.rule == "margin_at_least":
            second, highest = np.partition(probabilities, -2, axis=1)[:, -2:].T
            return np.asarray(highest - second >= self.bound)
        # A probability of 0 contributes nothing to the entropy.
        values = probabilities.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = np.where(values > 0, -values * np.log2(values), np.where(values == 0, 0.0, math.nan))
        return np.asarray(bits.sum(axis=1) <= self.bound)

    def problem(self, signature: Signature) -> str:
        """Why the rule cannot be applied to models with this signature; empty if it can."""
        spec = signature.output(self.output)
        if spec is None:
            listed = ", ".join(output.name for output in signature.outputs)
            return f"accept: the models have no output {self.output!r}; they have {listed}"
        if spec.name == LOGITS:
            others = ", ".join(output.name for output in signature.outputs if output.name != LOGITS)
            return f"accept: {LOGITS} are no probabilities; name another output: {others or 'the models have none'}"
        if spec.datatype not in FLOATS or len(spec.shape) != 2 or (spec.shape[1] or 2) < 2:
            return f"accept: the output {spec} is not probabilities of at least two labels, [batch, labels]"
        labels = spec.shape[1]
        if self.rule == "entropy_at_most" and labels is not None and self.bound >= math.log2(labels):
            return (
                f"accept: entropy_at_most {self.bound:g} accepts every sample, since {labels} labels have at most "
                f"{math.log2(labels):.2f} bits"
            )
        if not signature.batched:
            return f"a cascade decides for each sample, and the models are not batched: {signature.why_unbatched}"
        return ""
