"""``hangtag export --onnx --precision --calibration``: the whole command on small networks, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hangtag.cli import main
from hangtag.export import child_process
from hangtag.export.file import onnx_model
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from tests.export.foreign import models as foreign
from tests.export.quantization import networks
from tests.export.runs import contents
from tests.kit import onnx_models

pytestmark = pytest.mark.slow


def convert(folder: Path, model: onnx.ModelProto, *more: str | Path, samples: Path | None = None) -> Result:
    file = folder / "theirs.onnx"
    file.write_bytes(model.SerializeToString())
    arguments = ["export", "--onnx", str(file), "--name", "theirs", "--models", str(folder / "models"), *map(str, more)]
    arguments += ["--reports", str(folder / "reports"), "--calibration", str(samples or calibration(folder))]
    return CliRunner().invoke(main, arguments)


def calibration(folder: Path) -> Path:
    np.savez(folder / "samples.npz", x=networks.samples(400))
    return folder / "samples.npz"


def published(folder: Path) -> Path:
    return folder / "models/theirs/1/model.onnx"


def metadata(folder: Path) -> dict[str, str]:
    return dict(Runtime(published(folder), provider="cpu").signature.metadata)


def test_a_converted_file_names_the_layer_in_fp32_everywhere_and_is_served(tmp_path: Path) -> None:
    model = networks.sensitive()
    result = convert(tmp_path, model, "--precision", "int8", "--agree-at-least", "95")
    assert result.exit_code == 0, result.output
    assert "  batching     batched: the same answers alone and in batches of 2, 3, 7, 16, 64\n" in result.stdout
    assert "  precision    int8 in 2 of 3 layers; in FP32: fragile\n" in result.stdout
    agreement = re.search(
        r"  agreement    (\d+\.\d\d)% of 200 samples answered alike \(of all, (\d+\.\d\d)%", result.stdout
    )
    assert agreement, result.stdout
    assert float(agreement[1]) >= 95
    assert float(agreement[2]) < float(agreement[1])
    assert re.search(r"  size         0\.00 MB, \d+% of the original's\n", result.stdout)
    assert re.search(r"  speed        batch 1 in \S+ ms \(\S+x original\), batch 64 in .*, 1 thread", result.stdout)

    written = metadata(tmp_path)
    assert written["precision"] == "int8"
    (layer,) = json.loads(written["fp32_layers"])
    assert (layer["name"], layer["operator"]) == ("fragile", "MatMul")
    gate = json.loads(written["gate"])
    assert gate["agreement"]["least"] == 0.95
    assert gate["samples"] == {"made": 200, "proved": 200}
    assert gate["rules"] == {"scores": "labels"}
    assert set(json.loads(written["speed"])["median_ms"]["64"]) == {"file", "original"}
    page = next((tmp_path / "reports").rglob("theirs-1.html")).read_text()
    assert "The layers that stay in FP32" in page
    assert "fragile" in page

    x = networks.samples(300, seed=9)
    expected = onnx_answers(model, x)
    config = ServerConfig(models=tmp_path / "models", port=0, http_port=-1, provider="cpu")
    with Server(config) as server, Client(server.address) as client:
        answered = client.infer("theirs", {"x": x[:64]})["scores"]
    assert (answered.argmax(axis=1) == expected[:64].argmax(axis=1)).mean() > 0.9
    listed = CliRunner().invoke(main, ["models", "--json", "--models", str(tmp_path / "models")])
    assert json.loads(listed.stdout)[0]["precision"] == "int8"
    verified = CliRunner().invoke(main, ["models", "verify", "--models", str(tmp_path / "models")])
    assert verified.exit_code == 0, verified.output


def onnx_answers(model: onnx.ModelProto, x: networks.Array) -> networks.Array:
    """In plain NumPy: the weights are those of ``networks.sensitive``."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scaled = (x @ constants["first"]) * constants["scale"]
    answers: networks.Array = scaled @ constants["small"] @ constants["last"]
    return answers


def test_half_precision_keeps_inputs_and_outputs_and_overflowing_nodes(tmp_path: Path) -> None:
    result = convert(tmp_path, networks.overflowing(), "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert "  precision    fp16 in 2 of 4 layers; in FP32: squares, smaller\n" in result.stdout
    signature = Runtime(published(tmp_path), provider="cpu").signature
    assert [spec.datatype for spec in (*signature.inputs, *signature.outputs)] == ["FP32", "FP32"]
    types = {tensor.data_type for tensor in onnx.load(published(tmp_path)).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types


def test_half_precision_looks_for_overflow_in_every_sample(tmp_path: Path) -> None:
    x = networks.samples(1000) * 1e-3
    x[-1] *= 1e3
    np.savez(tmp_path / "few-are-large.npz", x=x)
    samples = tmp_path / "few-are-large.npz"
    result = convert(tmp_path, networks.overflowing(), "--precision", "fp16", samples=samples)
    assert result.exit_code == 0, result.output
    assert "in FP32: squares, smaller\n" in result.stdout


def test_a_folder_of_images_calibrates_a_model_of_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for place in range(60):
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(photos / f"{place:02}.png")
    result = convert(
        tmp_path, onnx_models.classifier(), "--precision", "int8", "--agree-at-least", "80",
        "--agree-on", "logits=labels", samples=photos,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "of 30 samples answered alike" in result.stdout
    assert "; logits by labels\n" in result.stdout
    assert onnx_model.operators(onnx.load(published(tmp_path)))["QuantizeLinear"] > 0
    assert metadata(tmp_path)["labels"] == json.dumps(list(onnx_models.LABELS))


@pytest.mark.usefixtures("started_children")
def test_the_progress_is_shown_meanwhile(tmp_path: Path) -> None:
    result = convert(tmp_path, networks.robust(), "--precision", "int8", "--agree-at-least", "80")
    assert result.exit_code == 0, result.output
    assert "200 samples make the file, 200 others prove it\n1 of 1 layers converted: " in result.stderr


def refusal(folder: Path, model: onnx.ModelProto, *more: str, samples: Path | None = None) -> str:
    samples = samples or calibration(folder)
    (folder / "theirs.onnx").write_bytes(model.SerializeToString())
    before = contents(folder)
    result = convert(folder, model, *more, samples=samples)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert contents(folder) == before
    return result.stderr.partition("Error: ")[2].strip()


def test_too_little_agreement_is_refused_with_the_share(tmp_path: Path) -> None:
    """Of a layer whose scores hardly differ, 8 bits leave no order."""
    model = onnx_models.model(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["scores"], name="only")],
        {"x": (1, ["batch", 16])},
        {"scores": (1, ["batch", 5])},
        {"w": np.outer(np.ones(16), 1 + 1e-4 * np.arange(5)).astype(np.float32)},
    )
    message = refusal(tmp_path, model, "--precision", "int8")
    assert re.match(r"99\.0% of the samples must be answered alike, .*: at best \d+\.\d\d% of 200 samples", message)
    assert message.endswith("Nothing was published.")


def test_samples_that_prove_worse_than_those_that_made_the_file_are_refused(tmp_path: Path) -> None:
    """Every second sample, which proves, is a hundred times larger than any that made the file."""
    x = networks.samples(400)
    x[1::2] *= 100
    np.savez(tmp_path / "samples.npz", x=x)
    message = refusal(tmp_path, networks.robust(), "--precision", "int8", samples=tmp_path / "samples.npz")
    assert re.match(
        r"agreement: \d+\.\d\d% of 200 samples answered alike, of those that the file was not made", message
    )


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (networks.robust(), ("--agree-on", "nosuch=labels"), "--agree-on nosuch: the model has no such output; it has"),
        (
            networks.robust(),
            ("--agree-on", "scores=nearly"),
            r"--agree-on scores=nearly: give OUTPUT=labels\|values\|eq",
        ),
        (networks.robust(), ("--preprocessing", "scale=2"), "--preprocessing is for a folder of images"),
        (onnx_models.two_inputs(), (), "holds arrays named x; the model's inputs are a: FP32"),
        (foreign.scaled_by_the_largest(), (), r"'x' has shape \[400, 16\], which is no row of samples"),
    ],
)
def test_samples_and_options_that_do_not_fit_are_refused(
    model: onnx.ModelProto, more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    said = refusal(tmp_path, model, "--precision", "int8", *more)
    assert re.search(message, said), said


def test_a_child_process_that_ends_or_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = child_process.run

    def failing(error: Exception) -> None:
        def run_or_fail(module: str, *arguments: object) -> object:
            if module.endswith("conversion"):
                raise error
            return run(module, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(child_process, "run", run_or_fail)

    failing(child_process.ChildAbortedError(11))
    message = refusal(tmp_path, networks.robust(), "--precision", "int8")
    assert re.fullmatch(
        r"the conversion of .*theirs\.onnx ended its process \(signal 11\)\. Nothing was published\.", message
    )
    failing(child_process.ChildFailedError("there was no answer within 1 s"))
    message = refusal(tmp_path, networks.robust(), "--precision", "int8")
    assert re.fullmatch(
        r"the conversion of .*theirs\.onnx failed: there was no answer within 1 s\. Nothing .*", message
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "--precision int8 and fp16 need --calibration"),
        (["--calibration", "x.npz"], "--calibration needs one of them"),
        (["--precision", "int8", "--agree-at-least", "99"], "--agree-at-least: for --calibration"),
        (["--precision", "int8", "--calibration", "x.npz", "--agree-at-least", "nan"], "is not a finite number"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["export", "--onnx", "x.onnx", "--name", "x", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
