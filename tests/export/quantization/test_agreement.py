"""When two answers are alike, by each rule; and how sure a share of samples is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from scipy.stats import binomtest

from hangtag.export.errors import ExportError
from hangtag.export.quantization import agreement
from hangtag.export.quantization.agreement import EQUAL, LABELS, VALUES, Agreement, Comparison
from hangtag.serving.signature import Signature
from tests.kit import onnx_models


def compare(rule: str, expected: Any, answered: Any) -> int:
    """How many samples are alike; one row each."""
    rows = [[{"y": np.array([row])} for row in side] for side in (expected, answered)]
    return Comparison(rows[0], {"y": rule}).agreement(rows[1]).agreeing


def test_labels_are_alike_where_the_largest_score_is() -> None:
    assert compare(LABELS, [[1.0, 2.0], [5.0, 0.0], [0.0, 1.0]], [[0.1, 9.0], [0.0, 0.1], [0.4, 0.5]]) == 2


def test_of_a_row_of_labels_all_must_be_alike() -> None:
    assert compare(LABELS, [[[1.0, 0], [0, 1.0]]] * 2, [[[1.0, 0], [0, 1.0]], [[1.0, 0], [1.0, 0]]]) == 1


def test_values_are_alike_within_a_share_of_the_spread() -> None:
    """The spread is 10, of which 5 % are 0.5."""
    assert compare(VALUES, [[0.0], [10.0], [5.0]], [[0.49], [9.49], [5.0]]) == 2


def test_integers_and_texts_must_be_equal() -> None:
    assert compare(EQUAL, [[1, 2], [3, 4]], [[1, 2], [3, 5]]) == 1
    assert compare(EQUAL, [["a"], ["b"]], [["a"], ["c"]]) == 1


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


def scores(last: int | str, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x [batch, 2, last] -> y of the same shape."""
    shape: list[int | str] = ["batch", 2, last]
    return onnx_models.model(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": (element, shape)}, {"y": (element, shape)}
    )


def test_the_rule_fits_the_output(signature: Callable[[onnx.ModelProto], Signature]) -> None:
    def fitting(model: onnx.ModelProto, **answer: Any) -> dict[str, str]:
        arrays = {name: np.array(value) for name, value in answer.items()}
        return agreement.rules(signature(model), [arrays], {})

    assert fitting(onnx_models.classifier(), logits=[[3.0, -5.0]], probabilities=[[1.0, 0.0]]) == {
        "logits": LABELS, "probabilities": LABELS,
    }  # fmt: skip
    assert fitting(onnx_models.two_inputs(), sum=[[1.0]], double=[[1]]) == {"sum": LABELS, "double": EQUAL}
    assert fitting(scores(3), y=[[[0.2, 0.8, 0], [1, 0, 0.0]]]) == {"y": LABELS}
    assert fitting(scores(3), y=[[[0.2, -0.8, 0], [1, 0, 0.0]]]) == {"y": VALUES}
    assert fitting(scores("free"), y=[[[0.5, 0.5], [1, 0.0]]]) == {"y": VALUES}
    assert fitting(scores(1), y=[[[1.0], [1.0]]]) == {"y": VALUES}


def test_a_chosen_rule_must_fit(signature: Callable[[onnx.ModelProto], Signature]) -> None:
    model = signature(onnx_models.two_inputs())
    assert agreement.rules(model, [], {"sum": VALUES}) == {"sum": VALUES}
    for chosen, message in (
        ({"nosuch": VALUES}, "the model has no such output; it has sum, double"),
        ({"double": VALUES}, "--agree-on double=values does not fit the output double: INT64"),
        ({"sum": EQUAL}, "--agree-on sum=equal does not fit the output sum: FP32"),
    ):
        with pytest.raises(ExportError, match=message):
            agreement.rules(model, [], chosen)
