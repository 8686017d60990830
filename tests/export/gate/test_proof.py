"""A published file answers as PyTorch does; any other is refused with the check, batch, difference and image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from hangtag.export import exporter
from hangtag.export.errors import GateError
from hangtag.export.file import torch_export
from hangtag.export.gate import runtime_answers
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.gate.tolerances import BATCH_SIZES
from hangtag.export.network.served_network import SingleLabel
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.networks.inference import normalise
from tests.export.exported import Exported
from tests.export.files import exported_as, prove_file, write
from tests.export.runs import contents

pytestmark = pytest.mark.slow

Model = onnx.ModelProto
Weights = npt.NDArray[np.float32]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16, 64])
def test_the_file_answers_as_pytorch_at_any_batch_size(exported: Exported, garments: Split, batch_size: int) -> None:
    runtime = Runtime(exported.file, provider="cpu")
    for start in (0, 100, 200):
        images = garments.images[start : start + batch_size]
        with torch.inference_mode():
            logits = exported.network(normalise(torch.tensor(images)))
            probabilities = torch.softmax(logits, dim=1)
        outputs = runtime.run({"image": images})
        np.testing.assert_allclose(outputs["logits"], logits.numpy(), atol=1e-4, rtol=0)
        np.testing.assert_allclose(outputs["probabilities"], probabilities.numpy(), atol=1e-4, rtol=0)
        assert outputs["logits"].shape == (batch_size, 10)


def test_the_proof_covers_each_batch_size_and_the_whole_test_set(exported: Exported, garments: Split) -> None:
    proof = exported.published.proof
    assert BATCH_SIZES == (1, 2, 3, 7, 16, 64)
    figures: dict[str, Any] = proof.figures("parity")
    assert list(figures["max_logit_difference"]) == ["test", "black", "white", "random"]
    for by_size in figures["max_logit_difference"].values():
        assert list(by_size) == [str(size) for size in BATCH_SIZES]
        assert 0 <= max(by_size.values()) <= figures["limit"] == 1e-4
    assert max(figures["max_logit_difference"]["random"].values()) > 0  # they were compared
    assert proof.figures("agreement")["images"] == len(garments)
    assert [check.name for check in proof.checks] == [
        "structure", "contract", "parity", "agreement", "calibration", "batching", "empty batch", "cuda",
    ]  # fmt: skip


def examine(classifier: SingleLabel, file: Path, garments: Split) -> Proof:
    return prove_file(classifier.eval(), file, GateData(garments.images, garments.classes))


def add_to_bias(model: Model, amount: float) -> None:
    _change(model, "network.classifier.bias", lambda bias: bias + np.float32(amount))


def turn_input_weights(model: Model) -> None:
    """Changes nothing for a black image: its pixels are zeros."""
    (node,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    _change(model, node.input[1], lambda kernel: kernel * np.float32(-30))


def _change(model: Model, name: str, change: Callable[[Weights], Weights]) -> None:
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def export_changed(
    change: Callable[[Model], None], lstm: Exported, models: Path, test: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export the run again, with the graph changed before it is compared."""
    monkeypatch.setattr(torch_export, "to_onnx", exported_as(lstm.file, change))
    exporter.export(lstm.run, models, test)


def test_a_file_that_is_left_as_it_was_is_published(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the refusals below are caused by their changes."""
    export_changed(lambda model: None, lstm, tmp_path / "models", garments, monkeypatch)
    assert (tmp_path / "models/lstm/1/model.onnx").is_file()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_weight_that_differs_is_refused(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """Nothing is published; the repository is byte for byte as it was, and a first export leaves no trace."""
    models = tmp_path / "models"
    if not is_first:
        export_changed(lambda model: None, lstm, models, garments, monkeypatch)
    before = contents(tmp_path)
    with pytest.raises(
        GateError,
        match=r"^parity: batch 1: logits differ from PyTorch's by 0\.05, more than the allowed 0\.0001; "
        r"worst at test image 0\. Nothing was published\.",
    ):
        export_changed(lambda model: add_to_bias(model, 0.05), lstm, models, garments, monkeypatch)
    assert contents(tmp_path) == before
    assert bool(before) is not is_first


def test_a_refusal_names_the_batch_and_the_worst_image(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only image 5 is not black, so it alone comes out differently; batches of 2 are the first to reach it."""
    images = np.zeros_like(garments.images)
    images[5] = garments.images[5]
    with pytest.raises(GateError, match=r"batch 2: logits differ .* worst at test image 5\."):
        export_changed(turn_input_weights, lstm, tmp_path / "models", Split(images, garments.classes), monkeypatch)


def test_another_class_anywhere_in_the_test_set_is_refused(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond the images whose logits are compared."""
    images = garments.images.copy()
    images[: 4 * max(BATCH_SIZES)] = 0
    monkeypatch.setattr(runtime_answers, "artificial_images", lambda height, width: {})  # they would differ first
    with pytest.raises(
        GateError,
        match=r"^agreement: .* another class than PyTorch for \d+ of 300 .*; worst at test image (2[5-9]\d)\.",
    ):
        export_changed(turn_input_weights, lstm, tmp_path / "models", Split(images, garments.classes), monkeypatch)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("amount", [np.nan, np.inf])
def test_a_file_that_answers_nan_is_refused(
    lstm: Exported, garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: float
) -> None:
    with pytest.raises(GateError, match=r"batch 1: logits differ from PyTorch's by (nan|inf), .* test image 0\."):
        export_changed(lambda model: add_to_bias(model, amount), lstm, tmp_path / "models", garments, monkeypatch)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_network_that_answers_nan_is_refused(lstm: Exported, garments: Split, broken: float) -> None:
    """Although the file answers the same."""
    network = build("lstm").eval()
    network.load_state_dict(lstm.network.state_dict())
    network.get_parameter("classifier.bias").data.fill_(broken)
    with pytest.raises(GateError, match=r"own outputs are not finite for 300 of 300 test images, first for image 0"):
        examine(SingleLabel(network), lstm.file, garments)


def test_wrong_probabilities_are_refused(lstm: Exported, garments: Split, tmp_path: Path) -> None:
    model = onnx.load(lstm.file)
    (softmax,) = [node for node in model.graph.node if node.op_type == "Softmax"]
    softmax.op_type = "LogSoftmax"
    changed = write(tmp_path, model)
    with pytest.raises(GateError, match=r"^parity: batch 1: probabilities are not those of the file's own logits"):
        examine(SingleLabel(lstm.network), changed, garments)


class Reshaped(nn.Module):
    """Returns another shape than a classifier of ten labels should."""

    def __init__(self, *, labels: int = 10, one_row: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Linear(28, labels)
        self.one_row = one_row

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(pixels.mean(dim=1))
        return logits.sum(dim=0, keepdim=True) if self.one_row else logits


@pytest.mark.parametrize(
    ("network", "declared"), [(Reshaped(labels=11), "[any, 11]"), (Reshaped(one_row=True), "[1, 10]")]
)
def test_a_shape_that_breaks_the_contract_is_refused(
    network: nn.Module, declared: str, garments: Split, tmp_path: Path
) -> None:
    file = write(tmp_path, torch_export.to_onnx(SingleLabel(network), {}))
    with pytest.raises(GateError) as refusal:
        examine(SingleLabel(network), file, garments)
    assert f"logits: FP32 {declared}" in str(refusal.value)
    assert "expected image: UINT8 [any, 28, 28]; logits: FP32 [any, 10]" in str(refusal.value)


def test_a_shape_that_breaks_its_own_declaration_is_refused(lstm: Exported, garments: Split, tmp_path: Path) -> None:
    """The file declares [batch, 10] and returns the first row alone, which is right only for a batch of 1."""
    model = onnx.load(lstm.file)
    (dense,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    dense.output[0] = "rows"
    first = onnx.helper.make_node("Compress", ["rows", "first"], ["logits"], axis=0)
    model.graph.node.insert(len(model.graph.node) - 1, first)  # before the softmax
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), "first"))
    file = write(tmp_path, model)
    with pytest.raises(GateError, match=r"batch 2: logits have shape \[1, 10\], expected \[2, 10\]"):
        examine(SingleLabel(lstm.network), file, garments)


def test_a_short_test_set_is_compared_as_far_as_it_goes(lstm: Exported, garments: Split) -> None:
    """An empty batch would abort the whole process in ONNX Runtime."""
    proof = examine(SingleLabel(lstm.network), lstm.file, garments.first(10))
    assert proof.figures("batching")["images"] == 10
