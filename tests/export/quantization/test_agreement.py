"""When two answers are alike, by each rule; and how sure a share of samples is."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from hangtag.export.errors import ExportError
from hangtag.export.quantization import agreement
from hangtag.export.quantization.agreement import EQUAL, LABELS, VALUES, Agreement, Comparison
from hangtag.serving.signature import Signature, TensorSpec


def compare(rule: str, expected: Any, answered: Any) -> int:
    """How many samples are alike; one row each."""
    rows = [[{"y": np.array([row])} for row in side] for side in (expected, answered)]
    return Comparison(rows[0], {"y": rule}).agreement(rows[1]).agreeing


@pytest.mark.parametrize(
    ("rule", "expected", "answered", "alike"),
    [
        (LABELS, [[1.0, 2.0], [5.0, 0.0], [0.0, 1.0]], [[0.1, 9.0], [0.0, 0.1], [0.4, 0.5]], 2),
        (LABELS, [[[1.0, 0], [0, 1.0]]] * 2, [[[1.0, 0], [0, 1.0]], [[1.0, 0], [1.0, 0]]], 1),  # all of a row's labels
        (VALUES, [[0.0], [10.0], [5.0]], [[0.49], [9.49], [5.0]], 2),  # within 5 % of the spread, which is 10
        (EQUAL, [[1, 2], [3, 4]], [[1, 2], [3, 5]], 1),
        (EQUAL, [["a"], ["b"]], [["a"], ["c"]], 1),
    ],
)
def test_answers_are_alike_by_the_rule(rule: str, expected: Any, answered: Any, alike: int) -> None:
    assert compare(rule, expected, answered) == alike


@pytest.mark.parametrize("rule", [LABELS, VALUES])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_like_nothing(rule: str, broken: float) -> None:
    assert compare(rule, [[1.0, 2.0], [3.0, 0.0]], [[1.0, broken], [3.0, 0.0]]) == 1
    rows = [{"y": np.array([[1.0, 2.0]])}]
    assert Comparison(rows, {"y": rule}).distance([{"y": np.array([[1.0, broken]])}]) == np.inf
    with pytest.raises(ExportError, match="original's own output 'y' is not finite"):
        Comparison([{"y": np.array([broken])}], {"y": rule})


def test_another_shape_is_like_nothing() -> None:
    rows = [{"y": np.zeros((1, 3))}]
    assert Comparison(rows, {"y": VALUES}).agreement([{"y": np.zeros((1, 4))}]).agreeing == 0


def test_the_distance_is_a_share_of_the_spread() -> None:
    comparison = Comparison([{"y": np.array([0.0])}, {"y": np.array([10.0])}], {"y": VALUES})
    assert comparison.distance([{"y": np.array([1.0])}, {"y": np.array([10.0])}]) == pytest.approx(0.05)


def test_the_bound_is_wilsons() -> None:
    for agreeing, samples in ((299, 300), (100, 100), (20, 40)):
        wilson = binomtest(agreeing, samples).proportion_ci(0.90, "wilson")  # 5 % on each side
        assert Agreement(agreeing, samples).at_least == pytest.approx(wilson.low, abs=1e-4)


def signature(**outputs: tuple[str, tuple[int | None, ...]]) -> Signature:
    """Of a model with these outputs: name -> datatype and shape."""
    specs = tuple(TensorSpec(name, datatype, shape) for name, (datatype, shape) in outputs.items())
    return Signature((TensorSpec("x", "FP32", (None, 3)),), specs, {})


@pytest.mark.parametrize(
    ("datatype", "shape", "answer", "rule"),
    [
        ("FP32", (None, 10), [[3.0, -5.0]], LABELS),
        ("FP32", (None,), [1.0], VALUES),
        ("INT64", (None, 1), [[1]], EQUAL),
        ("BYTES", (None, 1), [["text"]], EQUAL),
        ("FP32", (None, 2, 3), [[[0.2, 0.8, 0], [1, 0, 0.0]]], LABELS),
        ("FP32", (None, 2, 3), [[[0.2, -0.8, 0], [1, 0, 0.0]]], VALUES),
        ("FP32", (None, 2, None), [[[0.5, 0.5], [1, 0.0]]], VALUES),
        ("FP32", (None, 2, 1), [[[1.0], [1.0]]], VALUES),
    ],
)
def test_the_rule_fits_the_output(datatype: str, shape: tuple[int | None, ...], answer: Any, rule: str) -> None:
    assert agreement.rules(signature(y=(datatype, shape)), [{"y": np.array(answer)}], {}) == {"y": rule}


def test_a_chosen_rule_must_fit() -> None:
    model = signature(sum=("FP32", (None, 1)), double=("INT64", (None, 1)), total=("FP32", ()))
    assert agreement.rules(model, [], {"sum": VALUES}) == {"sum": VALUES}
    for chosen, message in (
        ({"nosuch": VALUES}, "the model has no such output; it has sum, double, total"),
        ({"double": VALUES}, "--agree-on double=values does not fit the output double: INT64"),
        ({"sum": EQUAL}, "--agree-on sum=equal does not fit the output sum: FP32"),
        ({"total": LABELS}, "--agree-on total=labels does not fit the output total: FP32"),
    ):
        with pytest.raises(ExportError, match=message):
            agreement.rules(model, [], chosen)
