"""The exported file contains everything that a server needs, and nothing about the machine that exported it."""

import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from hangtag.serving.client import Client
from tests.kit.exported import Exported, Garments
from tests.kit.onnx_file import answers, metadata
from tests.kit.rest import Rest
from tests.kit.runs import EPOCHS
from tests.kit.server import server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
KEYS = {
    "task", "labels", "label_distances", "label_distances_from", "precision", "recipe", "seed", "parameters",
    "data_digest", "git_revision", "trained", "training", "versions", "export_git_revision",
    "processor", "validation_accuracy", "test_accuracy", "gate", "reference", "graph_digest", "examples", "image",
}  # fmt: skip
LABELS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
SIZES = ["1", "2", "3", "7", "16", "64"]
OPERATORS = {
    "lstm": {"Cast": 1, "Div": 1, "Transpose": 1, "LSTM": 1, "Squeeze": 1, "Gemm": 1, "Softmax": 1},
    "lstm2": {"Cast": 1, "Div": 1, "Transpose": 1, "LSTM": 2, "Squeeze": 2, "Gemm": 1, "Softmax": 1},
    "cnn": {
        "Cast": 1, "Div": 1, "Unsqueeze": 1, "Conv": 5, "MaxPool": 3, "Relu": 7, "Reshape": 1, "Gemm": 3, "Softmax": 1,
    },
}  # fmt: skip


def test_a_server_needs_the_file_alone_and_answers_as_pytorch_does(
    exported: Exported, garments: Garments, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere" / "1" / "model.onnx"
    alone.parent.mkdir(parents=True)
    shutil.copyfile(exported.file, alone)
    with server(tmp_path, provider="cpu") as running, Client(running.address, timeout=60) as client:
        with Rest(running.http_address) as http:
            model = http.get("/v2/models/elsewhere").json
        assert [(spec["name"], spec["datatype"], spec["shape"]) for spec in (*model["inputs"], *model["outputs"])] == [
            ("image", "UINT8", [-1, 28, 28]), ("logits", "FP32", [-1, 10]), ("probabilities", "FP32", [-1, 10]),
        ]  # fmt: skip
        for start, size in enumerate([1, 2, 3, 7, 16, 64, 50]):
            images = garments.images[10 * start :][:size]
            with torch.inference_mode():
                logits = exported.network(torch.tensor(images).float()[:, None] / 255)
            served = client.infer("elsewhere", {"image": images})
            np.testing.assert_allclose(served["logits"], logits.numpy(), atol=1e-4, rtol=0)
            np.testing.assert_allclose(served["probabilities"], logits.softmax(dim=1).numpy(), atol=1e-4, rtol=0)
            assert served["logits"].argmax(axis=1).tolist() == logits.argmax(dim=1).tolist()
        (best, *_) = client.classify(garments.images[0], model="elsewhere").labels
        assert best.name == LABELS[int(client.infer("elsewhere", {"image": garments.images[:1]})["logits"].argmax())]


def test_its_metadata_hold_the_provenance(exported: Exported) -> None:
    written = metadata(exported.file)
    assert set(written) == KEYS
    config, metrics = exported.run.config, exported.run.metrics
    del metrics["summary"]["worst"]  # only the run's page names the misclassified images
    expected = {
        "task": "single_label", "precision": "fp32", "recipe": "tiny", "seed": "3",
        "parameters": str(sum(weights.numel() for weights in exported.network.parameters())),
        "data_digest": config["data_digest"], "git_revision": config["environment"]["git_revision"],
        "trained": config["environment"]["created"],
    }  # fmt: skip
    assert {key: written[key] for key in expected} == expected
    assert json.loads(written["labels"]) == LABELS
    assert json.loads(written["training"]) == {"config": config, "metrics": metrics}
    assert len(metrics["epochs"]) == EPOCHS
    shipped = json.loads((ROOT / "training/data/label_distances.json").read_text())
    assert json.loads(written["label_distances"]) == shipped["distances"]
    assert json.loads(written["label_distances_from"]) == shipped["provenance"]
    versions = json.loads(written["versions"])
    assert versions["torch"] == versions["torch_export"] == torch.__version__
    assert versions["onnx"] == onnx.__version__
    assert set(versions) == {"python", "torch", "torch_export", "onnx", "onnxruntime"}


def test_its_metadata_hold_the_figures_that_were_proven(exported: Exported, few: Garments) -> None:
    written = metadata(exported.file)
    logits = answers(exported.file, image=few.images)["logits"]
    assert written["test_accuracy"] == f"{(logits.argmax(axis=1) == few.classes).mean():.4f}"
    assert re.fullmatch(r"[01]\.\d{4}", written["validation_accuracy"])
    gate: dict[str, Any] = json.loads(written["gate"])
    assert list(gate) == [
        "precision", "structure", "contract", "parity", "agreement", "calibration", "batching", "cuda",
    ]  # fmt: skip
    differences = gate["parity"]["max_logit_difference"]
    assert list(differences) == ["test", "black", "white", "random"]
    for by_size in differences.values():
        assert list(by_size) == SIZES
        assert 0 <= max(by_size.values()) <= gate["parity"]["limit"] == 1e-4
    assert max(differences["random"].values()) > 0  # the gate also compared answers to random images
    assert gate["agreement"]["images"] == len(few)
    batching = gate["batching"]
    assert (list(batching["max_difference"]), batching["images"]) == (SIZES[1:], 128)
    assert max(batching["max_difference"].values()) <= 1e-4
    has_gpu = any(name.startswith("CUDA") for name in onnxruntime.get_available_providers())
    assert gate["cuda"]["outcome"] == ("loads" if has_gpu else "not run")


def test_it_is_one_file_with_its_weights_as_initializers_and_few_nodes(exported: Exported) -> None:
    assert [path.name for path in exported.published.folder.iterdir()] == ["model.onnx"]
    graph = onnx.load(exported.file, load_external_data=False).graph
    initializers = {tensor.name for tensor in graph.initializer}
    assert {tensor.data_location for tensor in graph.initializer} == {TensorProto.DEFAULT}
    weights = sum(weights.numel() for weights in exported.network.parameters())
    assert exported.file.stat().st_size > 4 * weights * 0.99  # the weights are inside the file
    assert Counter(node.op_type for node in graph.node) == OPERATORS[exported.run.model]
    for node in graph.node:
        used = {"LSTM": node.input[1:4], "Conv": node.input[1:2]}.get(node.op_type, [])
        assert initializers.issuperset(used)


def test_nothing_of_the_exporting_machine_is_in_it(exported: Exported) -> None:
    raw = exported.file.read_bytes()
    places = [Path.cwd(), Path.home(), Path(sys.prefix), exported.run.folder]
    for needle in (*map(str, places), "site-packages", "Traceback", 'File "', ".py", "stack_trace", "pkg.torch"):
        assert needle.encode() not in raw, needle
    # The file must not contain an absolute path. Weights are not searched, because their bytes may look like a path.
    model = onnx.load(exported.file)
    for tensor in model.graph.initializer:
        tensor.raw_data = b""
    (pictures,) = [entry for entry in model.metadata_props if entry.key == "hangtag.examples"]
    model.metadata_props.remove(pictures)
    assert not re.findall(rb"(?:/[A-Za-z_][\w.-]+){2,}", model.SerializeToString())
