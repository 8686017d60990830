"""The operator, a record in the file, or a trial run decides whether a model's requests are batched."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.serving.server.runtime.batching_proof import Extent, decide_batching, prove
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_file, onnx_models, shipped, unbatchable_models
from tests.kit.onnx_models import from_text

DIFFERS = "a trial compared single rows and batches: 'y' of the same input differs between a batch of 1 and a batch of "

UNSTEADY = "a trial compared single rows and batches: the same input gets a different answer each time"


class CountingRuntime(Runtime):
    """A runtime that counts how many rows it computes."""

    rows = 0

    def run(self, inputs: Mapping[str, Any], *, alone: bool = False) -> Any:
        self.rows += len(next(iter(inputs.values())))
        return super().run(inputs, alone=alone)


def load(folder: Path, model: onnx.ModelProto, *, override: bool | None = None) -> CountingRuntime:
    file = onnx_models.publish(folder, "m", model)
    return CountingRuntime(file, provider="cpu", batching_override=override)


def half_embedding() -> onnx.ModelProto:
    text = "(int32[batch, length] ids) => (float16[batch, length, 2] y) { y = Gather(table, ids) }"
    return from_text(text, table=np.array([[0, 1], [2, 3]], np.float16))


def matrix_product() -> onnx.ModelProto:
    """A model whose order of summation depends on the batch size."""
    weights = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    return from_text("(float[batch, 512] x) => (float[batch, 512] y) { y = MatMul(x, w) }", w=weights)


@pytest.mark.parametrize(
    "make",
    [
        onnx_models.every_type,
        onnx_models.text,
        onnx_models.gather,
        onnx_models.two_inputs,
        onnx_models.free_axis,
        onnx_models.added,
        onnx_models.classifier,
        half_embedding,
        matrix_product,
        lambda: onnx_models.sum_and_difference("BYTES"),
        lambda: onnx_models.doubled("rows", "rows", {"hangtag.batched": "true"}),
    ],
)
def test_a_model_whose_rows_are_independent_is_batched(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    runtime = load(tmp_path, make())
    assert decide_batching(runtime, 64).why == "the same answers alone and in batches of 2, 7, 64"
    assert runtime.signature.batched


@pytest.mark.parametrize(
    ("make", "why"),
    [
        *((make, DIFFERS) for make in unbatchable_models.MODELS),
        (unbatchable_models.reversed_texts, DIFFERS),
        (lambda: unbatchable_models.softmax({"hangtag.batched": "true"}), DIFFERS),
        (unbatchable_models.noise, UNSTEADY),
        (unbatchable_models.training_mode, UNSTEADY),
    ],
)
@pytest.mark.parametrize("max_batch_size", [2, 64])
def test_a_model_whose_rows_depend_on_each_other_is_not(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], why: str, max_batch_size: int
) -> None:
    runtime = load(tmp_path, make())
    assert runtime.signature.batched  # according to its axes or its metadata
    assert not decide_batching(runtime, max_batch_size).batched
    assert (runtime.signature.why_unbatched or "").startswith(why)


def constant() -> onnx.ModelProto:
    return from_text("(float[batch, 3] x) => (float[batch, 3] y) <float zero = {0}> { y = Mul(x, zero) }")


def lookup_of_one_value() -> onnx.ModelProto:
    """A lookup in a table whose only valid index is 0."""
    return from_text("(int64[batch] index) => (float[batch] y) <float[1] values = {5}> { y = Gather(values, index) }")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (constant, "a trial compared single rows and batches: all synthetic inputs get the same answer"),
        (unbatchable_models.at_most_32, "a trial compared single rows and batches: a batch of 64 fails: "),
        (lookup_of_one_value, "the model cannot be tried: the model fails on every synthetic input; the last error: "),
        (
            unbatchable_models.of_a_huge_picture,
            "the model cannot be tried: the model fails on every synthetic input; the last error: one sample",
        ),
    ],
)
def test_a_model_of_which_nothing_is_proven_is_not_batched(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], why: str
) -> None:
    runtime = load(tmp_path, make())
    assert not decide_batching(runtime, 64).batched
    assert (runtime.signature.why_unbatched or "").startswith(why)


def test_nothing_is_tried_where_the_operator_decides_or_nothing_can_be_joined(tmp_path: Path) -> None:
    for override, max_batch_size, why in (
        (True, 64, "--model-max-batch-size allows batching, so the server did not test it"),
        (None, 1, "at most one sample is computed at a time"),
    ):
        runtime = load(tmp_path / str(override), unbatchable_models.softmax(), override=override)
        assert decide_batching(runtime, max_batch_size).why == why
        assert runtime.signature.batched
        assert runtime.rows == 0


@pytest.mark.parametrize(
    "file", sorted(shipped.MODELS.glob("*/*/model.onnx")), ids=lambda file: "-".join(file.parts[-3:-1])
)
def test_a_shipped_model_is_not_tried_again(file: Path) -> None:
    runtime = CountingRuntime(file, provider="cpu")
    assert decide_batching(runtime, 64).why == "batching was checked at the export"
    assert runtime.rows == 0


@pytest.mark.parametrize(
    ("figures", "digest", "proven"),
    [
        ({"max_difference": {}}, None, True),
        ({"batched": True}, None, True),
        ({"batched": False}, None, False),
        (None, None, False),
        ({"batched": True}, "0" * 64, False),
        ({"batched": True}, "", False),
    ],
    ids=["own", "of others", "disproved", "other figures", "changed since", "no digest"],
)
def test_a_proof_holds_for_what_passed_the_gate(
    tmp_path: Path, figures: object, digest: str | None, proven: bool
) -> None:
    """The test changes the record of the batching check in a shipped model, and in some cases the graph's digest."""
    metadata = onnx_file.metadata(file := shipped.latest("cnn"))
    gate = json.dumps(json.loads(metadata["gate"]) | {"batching": figures})
    changed = {"gate": gate, "graph_digest": metadata["graph_digest"] if digest is None else digest}
    runtime = load(tmp_path, onnx_file.with_metadata(file, **changed))
    why = decide_batching(runtime, 2).why
    assert why == ("batching was checked at the export" if proven else "the same answers alone and in batches of 2")
    assert (runtime.rows == 0) is proven


def test_a_model_whose_graph_must_not_be_batched_is_run_on_single_samples_alone(tmp_path: Path) -> None:
    runtime = load(tmp_path, onnx_models.free_axis())
    verdict = prove(runtime, "a state has the batch", runtime.operators)
    assert (verdict.batched, verdict.why, len(verdict.lengths)) == (False, "a state has the batch", 1)
    assert runtime.rows == 7


def test_a_model_that_takes_longer_than_the_limit_is_tried_at_one_length(tmp_path: Path) -> None:
    runtime = load(tmp_path, onnx_models.free_axis())
    verdict = prove(runtime, None, runtime.operators, Extent((2, 7), samples=3, seconds=-1))
    assert (verdict.batched, verdict.lengths, runtime.rows) == (True, (1,), 3 + 2 * 2 + 7)
