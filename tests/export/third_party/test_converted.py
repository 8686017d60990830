"""``hangtag import --precision``: conversions of small networks with a known sensitive layer, and refusals."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from PIL import Image

from hangtag.serving.client import Client
from hangtag.training.data.dataset import Split
from hangtag.training.data.fashion_mnist import LABELS
from tests.kit import networks, onnx_file, onnx_models, unbatchable_models
from tests.kit.colour_networks import in_text
from tests.kit.command import invoke, refusal
from tests.kit.exported import imported, importing
from tests.kit.server import server
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow


def arguments(folder: Path, model: onnx.ModelProto, *more: object, samples: Path | None = None) -> list[object]:
    """The command that converts this model. By default, the samples are those of networks.py."""
    if samples is None:
        samples = folder / "samples.npz"
        np.savez(samples, x=networks.samples(400))
    return importing(folder, model, "--calibration", samples, *more)


def convert(folder: Path, model: onnx.ModelProto, *more: object, samples: Path | None = None) -> Result:
    return invoke(*arguments(folder, model, *more, samples=samples))


def refused(folder: Path, model: onnx.ModelProto, *more: object, samples: Path | None = None) -> str:
    command = arguments(folder, model, *more, samples=samples)
    return refusal(*command, unchanged=folder)


def published(folder: Path) -> Path:
    return next(folder.glob("models/theirs-*/1/model.onnx"))


def kept(folder: Path) -> list[dict[str, Any]]:
    """The layers that stay in FP32."""
    layers: list[dict[str, Any]] = json.loads(onnx_file.metadata(published(folder))["fp32_layers"])
    return layers


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(published(folder)).graph.node]


INT8 = ("--precision", "int8", "--agree-at-least", "95")


def test_a_converted_file_names_the_layer_in_fp32_everywhere_and_is_served(tmp_path: Path) -> None:
    model = networks.sensitive()
    result = convert(tmp_path, model, *INT8)
    assert "  batching     batched: the same answers alone and in batches of 2, 3, 7, 16, 64\n" in result.stdout
    assert "  precision    int8 in 2 of 3 layers; in FP32: fragile\n" in result.stdout
    agreed = (
        r"  agreement    both files give the same answer to (\S+)% of 200 .*; with 95 % confidence, to at least (\S+)% "
    )
    agreement = re.search(agreed, result.stdout)
    assert agreement, result.stdout
    assert float(agreement[1]) >= 95
    assert float(agreement[2]) < float(agreement[1])
    assert re.search(r"  size         0\.00 MB, \d+% of the original's size\n", result.stdout)
    progress = [line for line in result.stderr.splitlines() if "layer" in line]  # the lines of progress
    assert progress[0].startswith("3 of 3 layers converted: ")
    assert progress[-1].startswith("2 of 3 layers converted: ")

    written = onnx_file.metadata(published(tmp_path))
    assert written["precision"] == "int8"
    (layer,) = kept(tmp_path)
    assert (layer["name"], layer["operator"]) == ("fragile", "MatMul")
    assert layer["error"] > 0.05
    gate = json.loads(written["gate"])
    assert gate["agreement"]["least"] == 0.95
    assert gate["agreement"]["share"] >= 0.95
    assert gate["samples"] == {"made": 200, "proved": 200}
    assert gate["rules"] == {"scores": "labels"}

    x = networks.samples(64, seed=9)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    expected = (x @ constants["first"] * constants["scale"]) @ constants["small"] @ constants["last"]
    with server(tmp_path / "models", provider="cpu") as running, Client(running.address) as client:
        answered = client.infer("theirs-int8", {"x": x})["scores"]
    assert (answered.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    invoke("models", "verify", "--models", tmp_path / "models")


@pytest.mark.parametrize(("options", "least"), [((), 1 - 1 / 30), (("--agree-at-least", "95"), 0.95)])
def test_one_of_few_samples_may_get_another_answer_unless_a_share_is_required(
    tmp_path: Path, options: tuple[str, ...], least: float
) -> None:
    few = tmp_path / "few.npz"
    np.savez(few, x=networks.samples(60))
    convert(tmp_path, networks.robust(), "--precision", "int8", *options, samples=few)
    assert json.loads(onnx_file.metadata(published(tmp_path))["gate"])["agreement"]["least"] == least


def test_layers_without_names_get_some(tmp_path: Path) -> None:
    model = networks.sensitive()
    for node in model.graph.node:
        node.name = ""
    convert(tmp_path, model, *INT8)
    assert [layer["name"] for layer in kept(tmp_path)] == ["MatMul_2"]


def test_a_bias_with_an_axis_of_one_is_quantized_and_an_old_opset_is_raised(tmp_path: Path) -> None:
    """ONNX Runtime fuses a product and a sum into a Gemm, and its quantizer expects that a Gemm's bias has one axis."""
    bias = networks.weights(2, 1, networks.LABELS)
    model = networks.scoring("{ product = MatMul(x, last) scores = Add(product, bias) }", bias=bias)
    model.opset_import[0].version = 11
    convert(tmp_path, model, *INT8)
    assert kept(tmp_path) == []
    assert operators(tmp_path).count("DequantizeLinear") >= 3
    opsets = {entry.domain: entry.version for entry in onnx.load(published(tmp_path)).opset_import}
    assert opsets[""] >= 13


def test_a_folder_of_images_calibrates_a_model_of_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for place in range(60):
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(photos / f"{place:02}.png")
    options = ("--precision", "int8", "--agree-at-least", "80", "--agree-on", "logits=labels")
    result = convert(tmp_path, onnx_models.classifier(), *options, samples=photos)
    assert "% of 30 samples, none of which" in result.stdout
    assert "Compared: logits by labels\n" in result.stdout
    assert "QuantizeLinear" in operators(tmp_path)
    assert onnx_file.metadata(published(tmp_path))["labels"] == json.dumps(list(onnx_models.LABELS))


def test_a_classifier_of_hangtag_needs_only_pictures(garments: Split, tmp_path: Path) -> None:
    """Files of earlier releases do not describe the input images, but record that the model was trained on garments."""
    (tmp_path / "photos").mkdir()
    rows = ["path,label"]
    for place in range(100):
        Image.fromarray(garments.images[place]).save(tmp_path / f"photos/{place}.png")
        rows.append(f"photos/{place}.png,{LABELS[garments.classes[place]]}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    data = ("--data", f"csv:{tmp_path / 'photos.csv'}")
    file = onnx.load(latest("cnn"))
    for name, options in (("theirs", ()), ("theirs-int8", INT8)):
        imported(tmp_path, file, *data, *options)
        written = onnx_file.metadata(tmp_path / f"models/{name}/1/model.onnx")
        assert json.loads(written["image"])["fit"] == "garment"
        assert float(written["test_accuracy"]) > 0.9
        assert not {"training", "recipe", "reference", "validation_accuracy"} & set(written)
    for flag, value in (("--preprocessing", "fit=pad"), ("--scores", "logits"), ("--labels", tmp_path / "photos.csv")):
        assert f"probabilities: leave out {flag}. Nothing was" in refusal(*importing(tmp_path, file, flag, value))
    sets = onnx_file.with_metadata(onnx_models.classifier(), task="multi_label")
    assert "is not one: it answers with sets of labels" in refusal(*importing(tmp_path, sets, "--name=sets", *data))


def hardly_different() -> onnx.ModelProto:
    """A model whose scores are so close together that 8-bit weights change their order."""
    last = np.outer(np.ones(16), 1 + 1e-4 * np.arange(5)).astype(np.float32)
    return networks.scoring("{ scores = MatMul(x, last) }", last=last)


def without_layers() -> onnx.ModelProto:
    return onnx_models.from_text("(float[batch, 16] x) => (float[batch, 16] y) { y = Add(x, x) }")


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (
            hardly_different(),
            (),
            r"^99\.0% of the samples must get the .*: at best, both files .* \d+\.\d\d% of 200 .*Nothing was",
        ),
        (without_layers(), (), r"int8 is for Conv, Gemm, MatMul with constant weights in the main graph"),
        (
            networks.robust(),
            ("--agree-on", "scores=equal"),
            "scores=equal does not fit the output scores",
        ),
        (networks.robust(), ("--agree-on", "nosuch=labels"), "--agree-on nosuch: the model has no such output; it has"),
        (
            networks.robust(),
            ("--agree-on", "scores=nearly"),
            r"--agree-on scores=nearly: give OUTPUT=labels\|values\|eq",
        ),
        (onnx_models.two_inputs(), (), "holds arrays named x; the model's inputs are a: FP32"),
        (
            unbatchable_models.scaled_by_the_largest(),
            (),
            r"'x' has shape \[400, 16\], but the model's input .* needs one sample per row",
        ),
    ],
)
def test_what_cannot_be_converted_as_wanted_is_refused(
    model: onnx.ModelProto, more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    reason = refused(tmp_path, model, "--precision", "int8", *more)
    assert re.search(message, reason), reason


def test_samples_that_prove_worse_than_those_that_made_the_file_are_refused(tmp_path: Path) -> None:
    """The samples that test the converted file are multiplied by 100, but those that calibrate it are not."""
    x = networks.samples(400)
    x[1::2] *= 100
    np.savez(tmp_path / "uneven.npz", x=x)
    message = refused(tmp_path, networks.robust(), "--precision", "int8", samples=tmp_path / "uneven.npz")
    assert re.match(
        r"agreement: both files give the same answer to \d+\.\d\d% of 200 samples that test the converted", message
    )


def abort(*_: object) -> None:
    os.abort()


def leave(*_: object) -> None:
    os._exit(3)


@pytest.mark.usefixtures("started_children")
@pytest.mark.parametrize(
    ("function", "end", "message"),
    [
        (
            "probe._probe",
            abort,
            r"runtime: \S+ ended the process that worked on it \(signal 6\)\. Nothing was published",
        ),
        (
            "conversion._convert",
            abort,
            r"conversion: \S+ ended the process that worked on it \(signal 6\)\. Nothing was",
        ),
        (
            "wrapping.wrap",
            leave,
            r"structure: working on \S+ failed: the process ended with exit code 3\. .* publis",
        ),
    ],
)
def test_work_on_a_file_that_ends_its_process_is_reported(
    function: str,
    end: Callable[..., None],
    message: str,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command converts and runs the file in a child process, so a crash ends only the child process."""
    monkeypatch.setattr(f"hangtag.export.third_party.{function}", end)
    stated = ("--labels", labels, "--preprocessing", "scale=255")
    reason = refused(tmp_path, in_text(), *stated, "--precision", "int8")
    assert re.match(message, reason), reason
