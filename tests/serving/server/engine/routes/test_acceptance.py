import math

import numpy as np
import pytest

from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.signature import Signature, TensorSpec

PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [math.nan, 0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("rule", "bound", "accepted"),
    [
        ("at_least", 0.45, [True, True, False, False]),
        ("margin_at_least", 0.05, [True, False, True, False]),
        ("entropy_at_most", 1.0, [True, True, False, False]),  # 0.47, 1 and 1.57 bits
        ("entropy_at_most", 0.9, [True, False, False, False]),
    ],
)
def test_rules_decide_for_each_sample_and_never_accept_a_nan(rule: str, bound: float, accepted: list[bool]) -> None:
    assert Acceptance("p", rule, bound).accepts(PROBABILITIES).tolist() == accepted


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (TensorSpec("p", "FP16", (None, 10)), ""),
        (TensorSpec("p", "FP32", (None, None)), ""),
        (TensorSpec("q", "FP32", (None, 10)), "the models have no output 'p'; they have q"),
        (TensorSpec("p", "INT64", (None, 10)), "is not probabilities of at least two labels"),
        (TensorSpec("p", "FP32", (None, 1)), "is not probabilities of at least two labels"),
        (TensorSpec("p", "FP32", (None,)), "is not probabilities of at least two labels"),
        (TensorSpec("p", "FP32", (1, 10)), "the models are not batched"),
    ],
)
def test_models_that_the_rule_does_not_fit_are_named(spec: TensorSpec, problem: str) -> None:
    signature = Signature((TensorSpec("x", "FP32", (spec.shape[0], 2)),), (spec,))
    said = Acceptance("p", "at_least", 0.9).problem(signature)
    assert problem in said
    assert bool(problem) == bool(said)


def test_logits_are_not_probabilities() -> None:
    outputs = tuple(TensorSpec(name, "FP32", (None, 10)) for name in ("logits", "probabilities"))
    signature = Signature((TensorSpec("x", "FP32", (None, 2)),), outputs)
    assert not Acceptance("probabilities", "at_least", 0.9).problem(signature)
    problem = Acceptance("logits", "at_least", 0.9).problem(signature)
    assert "logits are no probabilities; name another output: probabilities" in problem
