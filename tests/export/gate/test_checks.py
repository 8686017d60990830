"""Each check of the gate passes what it should, and fails what it should not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hangtag.export.errors import GateError
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.check import NOT_RUN
from hangtag.export.gate.checks import agreement, batching, cuda, empty_batch, structure
from hangtag.export.gate.runtime_answers import artificial_images, softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import Split
from tests.export.exported import Exported
from tests.export.files import write
from tests.export.foreign import models as foreign
from tests.kit import onnx_models
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("started_children")
@pytest.mark.parametrize(
    ("build", "outcome"),
    [
        (onnx_models.classifier, "answered"),
        (lambda: onnx.load(latest("lstm")), "aborted"),
        (foreign.only_alone, "refused"),
    ],
)
def test_an_empty_batch_is_run_in_a_process_of_its_own(build: object, outcome: str, tmp_path: Path) -> None:
    """An LSTM would abort this process. That is reported, not refused: the server lets no empty batch through."""
    model = build()  # type: ignore[operator]
    assert empty_batch.check(write(tmp_path, model)).figures["outcome"] == outcome


def test_an_empty_batch_that_is_answered_with_rows_is_refused(tmp_path: Path) -> None:
    model = onnx_models.model(
        [helper.make_node("Concat", ["x", "row"], ["y"], axis=0)],
        {"x": (onnx.TensorProto.FLOAT, ["batch", 2])},
        {"y": (onnx.TensorProto.FLOAT, ["rows", 2])},
        {"row": np.ones((1, 2), np.float32)},
    )
    with pytest.raises(GateError, match=r"^empty batch: a batch of 0 is answered with y \[1, 2\]\. Nothing was pub"):
        empty_batch.check(write(tmp_path, model))


@pytest.mark.usefixtures("started_children")
def test_a_file_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(GateError, match=r"a batch of 0 failed: the process ended with exit code 1: .*ModelLoadError"):
        empty_batch.check(tmp_path / "model.onnx")


def test_images_are_the_same_alone_and_in_any_batch(lstm: Exported, garments: Split) -> None:
    other_images = np.concatenate(
        [garments.images[-20:], *(pixels[:4] for pixels in artificial_images(28, 28).values())]
    )
    check = batching.check(
        Runtime(lstm.file, provider="cpu"), garments.images, other_images, TOLERANCES["fp32"], spread=1.0
    )
    assert list(check.figures["max_difference"]) == ["2", "3", "7", "16", "64"]
    assert max(check.figures["max_difference"].values()) <= 1e-4
    assert check.figures["images"] == batching.IMAGES


def test_only_the_answers_of_tied_images_may_change(lstm: Exported, garments: Split, tmp_path: Path) -> None:
    """As for two paths that are equally likely: only for such images the batch may decide."""
    model = onnx.load(lstm.file)
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[0] = "alone"
    # The whole batch's largest logit is added: an answer depends on the other images.
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["alone"], ["largest"], keepdims=0),
            helper.make_node("Add", ["alone", "largest"], ["logits"]),
        ]
    )
    model.graph.node.append(model.graph.node.pop(next(
        place for place, node in enumerate(model.graph.node) if node.op_type == "Softmax"
    )))  # fmt: skip
    runtime = Runtime(write(tmp_path, model), provider="cpu")
    images = garments.images[:8]
    with pytest.raises(GateError, match=r"^batching: logits of an image differ by .* Worst at test image \d\."):
        batching.check(runtime, images, garments.images[-20:], TOLERANCES["fp32"], 1.0)
    batching.check(runtime, images, garments.images[-20:], TOLERANCES["fp32"], 1.0, ties=range(8))


def test_the_worst_disagreement_has_pytorchs_largest_margin() -> None:
    expected = np.tile(np.array([[5.0, 0.0, 0.0]], np.float32), (1000, 1))
    expected[3] = [9.0, 0.0, 0.0]
    actual = expected.copy()
    classes = np.zeros(1000, np.uint8)
    actual[3] = actual[8] = [0.0, 9.0, 0.0]
    with pytest.raises(GateError, match=r"for 2 of 1,000 test images \(99\.80% agree, 100\.0% must\); worst at .* 3\."):
        agreement.check(actual, expected, classes, TOLERANCES["fp32"])
    with pytest.raises(GateError, match=r"\(99\.80% agree, 99\.9% must\)"):
        agreement.check(actual, expected, classes, TOLERANCES["fp16"])
    figures = agreement.check(actual, expected, classes, TOLERANCES["int8"]).figures
    assert (figures["differing"], figures["worst_image"], figures["accuracy"]) == (2, 3, 0.998)


def test_lost_accuracy_is_refused_even_where_most_answers_agree() -> None:
    expected = np.tile(np.array([[5.0, 0.0]], np.float32), (1000, 1))
    actual = expected.copy()
    expected[:8] = [[5.0 + place, 0.0] for place in range(8)]
    actual[:8] = actual[:8, ::-1]
    classes = np.zeros(1000, np.uint8)
    classes[7] = 1  # where PyTorch is surest of all it is wrong, and the file right
    with pytest.raises(
        GateError,
        match=r"right about 99\.30% of the test set and PyTorch about 99\.90%; it must keep 99\.8% of that; worst at "
        r"test image 6\.",
    ):
        agreement.check(actual, expected, classes, TOLERANCES["int8"])


def test_in_fp32_tied_labels_may_go_either_way() -> None:
    expected = np.array([[1.0, 1.00005]] * 10, np.float32)
    passed = agreement.check(expected[:, ::-1], expected, np.zeros(10, np.uint8), TOLERANCES["fp32"])
    assert (passed.figures["level"], passed.figures["differing"]) == (10, 0)
    assert passed.summary.endswith("every answer the same but 10, each with two tied labels")


def test_in_fp32_accuracy_may_be_lost_to_tied_labels_alone() -> None:
    assert TOLERANCES["fp32"].accuracy == 1.0
    expected = np.array([[1.0, 1.00005]] * 3 + [[0.0, 5.0]] * 7, np.float32)
    actual = expected.copy()
    actual[:3] = actual[:3, ::-1]
    figures = agreement.check(actual, expected, np.ones(10, np.uint8), TOLERANCES["fp32"]).figures
    assert (figures["level"], figures["accuracy"], figures["pytorch_accuracy"]) == (3, 0.7, 1.0)


def test_a_graph_that_contradicts_itself_is_refused() -> None:
    model = onnx_models.classifier()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11
    with pytest.raises(GateError, match=r"^structure: ONNX's checker refuses the file: .*11"):
        structure.check(model, megabytes=0.1)


def test_a_machine_without_cuda_is_reported(lstm: Exported, garments: Split) -> None:
    answers = {name: rows[:10] for name, rows in lstm.published.proof.expected.items()}
    check = cuda.check(lstm.file, garments.images[:10], answers, TOLERANCES["fp32"], 1.0, ())
    expected = "loads" if Runtime(lstm.file).provider.startswith("CUDA") else NOT_RUN
    assert check.figures["outcome"] == expected


@pytest.mark.parametrize(("size", "batch"), [(1, "batch 1 from image 5 on"), (4, "batch 4 from image 4 on")])
def test_a_failure_of_the_runtime_names_check_and_images(size: int, batch: str, tmp_path: Path) -> None:
    """With a file that fails on every image that is not black."""
    model = onnx_models.model(
        [
            helper.make_node("Cast", ["image"], ["rows"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["table", "rows"], ["y"]),
        ],
        {"image": (onnx.TensorProto.UINT8, ["batch", 1, 1])},
        {"y": (onnx.TensorProto.FLOAT, ["batch", 1, 1])},
        {"table": np.zeros(1, np.float32)},
    )
    runtime = Runtime(write(tmp_path, model), provider="cpu")
    images = np.zeros((8, 1, 1), np.uint8)
    assert runtime_answers.answer(runtime, images, size)["y"].shape == (8, 1, 1)
    images[5] = 200
    with pytest.raises(
        GateError, match=rf"^agreement: the file loads, but fails at {batch}: .*[^.]\. Nothing was pub"
    ) as no:
        runtime_answers.answer(runtime, images, size, "agreement")
    assert "\n" not in str(no.value)
    with pytest.raises(
        GateError, match=r"^batching: the file loads, but fails at batch 2 with image [0-4] among others: "
    ):
        batching.check(runtime, images[:5], images, TOLERANCES["fp32"], 1.0)


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0, 0.0]])), [[0.5, 0.5, 0.0]])
