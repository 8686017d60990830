"""The file is the contract: it holds everything that a server needs, and nothing of the machine that exported it."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import pytest
import torch
from onnx import TensorProto
from torch import nn

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model, torch_export
from hangtag.export.network.served_network import SingleLabel
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature, TensorSpec
from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import DIGEST, Split
from hangtag.training.labels import distance as label_distance
from hangtag.training.networks import inference
from hangtag.training.networks.single_label import parameter_count
from tests.export.exported import Exported
from tests.export.files import write
from tests.export.runs import EPOCHS

pytestmark = pytest.mark.slow

PLAIN_KEYS = {"task", "precision", "recipe", "seed", "parameters", "data_digest", "git_revision", "trained"}
NODES = {"nodes_before_folding"}
MACHINE = {"processor"}
FIGURES = {"validation_accuracy", "test_accuracy"}
JSON_KEYS = {"labels", "label_distances", "label_distances_from", "versions", "training", "parity", "gate", "reference"}
DIGESTS = {"export_git_revision", "graph_digest", "reference_labels"}


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def metadata_of(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_the_graph_takes_bytes_and_gives_logits_and_probabilities(exported: Exported) -> None:
    graph = onnx.load(exported.file).graph
    (image,) = graph.input
    batch = dims(image)[0]
    assert isinstance(batch, str)
    assert (image.name, image.type.tensor_type.elem_type, dims(image)) == ("image", TensorProto.UINT8, [batch, 28, 28])
    assert [(out.name, out.type.tensor_type.elem_type, dims(out)) for out in graph.output] == [
        ("logits", TensorProto.FLOAT, [batch, 10]),
        ("probabilities", TensorProto.FLOAT, [batch, 10]),
    ]


def test_a_server_reads_the_signature_from_the_file_alone(exported: Exported, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.onnx"
    shutil.copyfile(exported.file, alone)
    signature = Runtime(alone, provider="cpu").signature
    assert signature == Signature(
        inputs=(TensorSpec("image", "UINT8", (None, 28, 28)),),
        outputs=(TensorSpec("logits", "FP32", (None, 10)), TensorSpec("probabilities", "FP32", (None, 10))),
        metadata={key.removeprefix("hangtag."): value for key, value in metadata_of(exported.file).items()},
    )
    assert signature.batched
    assert signature.task == "single_label"


def test_labels_come_in_the_data_sets_order(exported: Exported) -> None:
    labels = json.loads(metadata_of(exported.file)["hangtag.labels"])
    assert labels == [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip


def test_distances_of_labels_are_those_that_ship(exported: Exported) -> None:
    signature = Runtime(exported.file, provider="cpu").signature
    distances = label_distance.default()
    np.testing.assert_array_equal(signature.label_distances, distances.matrix)
    assert json.loads(signature.metadata["label_distances_from"]) == distances.provenance


def test_it_is_one_file_without_external_data(exported: Exported) -> None:
    assert [path.name for path in exported.published.folder.iterdir()] == ["model.onnx"]
    tensors = onnx.load(exported.file, load_external_data=False).graph.initializer
    assert tensors
    assert {tensor.data_location for tensor in tensors} == {TensorProto.DEFAULT}
    assert exported.file.stat().st_size > 4 * parameter_count(exported.network) * 0.99  # the weights are inside


def test_metadata_holds_the_models_provenance(exported: Exported) -> None:
    metadata = metadata_of(exported.file)
    assert set(metadata) == {f"hangtag.{key}" for key in PLAIN_KEYS | FIGURES | JSON_KEYS | DIGESTS | NODES | MACHINE}
    config, metrics = exported.run.read_config(), exported.run.read_metrics()
    del metrics["summary"]["worst"]  # which images a run has wrong is for its page
    assert {key: metadata[f"hangtag.{key}"] for key in PLAIN_KEYS} == {
        "task": "single_label",
        "precision": "fp32",
        "recipe": "tiny",
        "seed": "3",
        "parameters": str(parameter_count(exported.network)),
        "data_digest": DIGEST,
        "git_revision": config["environment"]["git_revision"],
        "trained": config["environment"]["created"],
    }
    assert json.loads(metadata["hangtag.training"]) == {"config": config, "metrics": metrics}
    assert len(metrics["epochs"]) == EPOCHS
    versions = json.loads(metadata["hangtag.versions"])
    assert versions["torch"] == versions["torch_export"] == torch.__version__
    assert versions["onnx"] == onnx.__version__
    assert set(versions) == {"python", "torch", "torch_export", "onnx", "onnxruntime"}


def test_metadata_carries_the_figures_that_were_proven(exported: Exported, garments: Split) -> None:
    metadata = metadata_of(exported.file)
    logits = inference.predict(exported.network, garments.images)
    assert metadata["hangtag.test_accuracy"] == f"{(logits.argmax(axis=1) == garments.classes).mean():.4f}"
    assert re.fullmatch(r"[01]\.\d{4}", metadata["hangtag.validation_accuracy"])
    proven = json.loads(metadata["hangtag.parity"])
    assert (proven["against"], proven["tolerance"]) == ("pytorch", 1e-4)
    figures: dict[str, Any] = exported.published.proof.figures("parity")
    assert proven["max_logit_difference"] == figures["max_logit_difference"]["test"]
    assert all(0 <= value <= 1e-4 for value in proven["max_logit_difference"].values())


def test_nothing_of_the_exporting_machine_is_in_the_file(exported: Exported) -> None:
    raw = exported.file.read_bytes()
    places = [Path.cwd(), Path.home(), Path(sys.prefix), Path(inference.__file__).parent, exported.run.folder]
    for needle in (*map(str, places), "site-packages", "Traceback", 'File "', ".py", "stack_trace", "pkg.torch"):
        assert needle.encode() not in raw, needle
    # Without the weights, whose bytes may spell anything: no absolute path at all.
    model = onnx.load(exported.file)
    for tensor in model.graph.initializer:
        tensor.raw_data = b""
    assert not re.findall(rb"(?:/[A-Za-z_][\w.-]+){2,}", model.SerializeToString())


def test_recurrent_weights_are_initializers(exported: Exported) -> None:
    graph = onnx.load(exported.file).graph
    initializers = {tensor.name for tensor in graph.initializer}
    recurrent = [node for node in graph.node if node.op_type == "LSTM"]
    assert len(recurrent) == {"lstm": 1, "lstm2": 2, "cnn": 0}[exported.run.model]
    for node in recurrent:
        assert initializers.issuperset(node.input[1:4])
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == (5 if exported.run.model == "cnn" else 0)
    assert initializers.issuperset(node.input[1] for node in convolutions)


def test_weights_that_are_computed_in_the_graph_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another version of onnxscript may leave them."""
    monkeypatch.setattr(onnxscript.optimizer, "optimize", lambda *arguments, **options: None)
    with pytest.raises(ExportError, match=r"the weights of \S+ are computed in the graph"):
        torch_export.to_onnx(SingleLabel(build("lstm")), {})


def test_dropout_is_off_even_for_a_network_in_training_mode(tmp_path: Path, garments: Split) -> None:
    class Dropped(nn.Module):
        """Without weights, so that the export is quick."""

        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            dropped: torch.Tensor = self.dropout(pixels[:, 14, :10])
            return dropped

    file = write(tmp_path, torch_export.to_onnx(SingleLabel(Dropped()).train(), {}))
    logits = Runtime(file, provider="cpu").run({"image": garments.images[:5]})["logits"]
    np.testing.assert_array_equal(logits, garments.images[:5, 14, :10].astype(np.float32) / np.float32(255))


def test_added_metadata_leaves_the_rest_as_it_was(lstm: Exported) -> None:
    before, after = onnx.load(lstm.file), onnx.load(lstm.file)
    onnx_model.add_metadata(after, {"note": "ironed"})
    assert onnx_model.digest(after) == onnx_model.digest(before)
    added = after.metadata_props.pop()
    assert (added.key, added.value) == ("hangtag.note", "ironed")
    assert after == before
