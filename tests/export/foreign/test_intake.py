"""``hangtag export --onnx``: what is published, batched or not, and what is refused with nothing written."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export.foreign import probe
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from tests.export.foreign import models as foreign
from tests.export.runs import contents
from tests.kit import onnx_models

pytestmark = pytest.mark.slow

Build = Callable[[], onnx.ModelProto]


def take(folder: Path, file: Path, *more: str | Path) -> Result:
    arguments = ["export", "--onnx", str(file), "--name", "theirs", "--models", str(folder / "models"), *map(str, more)]
    arguments += ["--reports", str(folder / "reports")]
    return CliRunner().invoke(main, arguments)


def write(folder: Path, model: onnx.ModelProto) -> Path:
    file = folder / "theirs.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def metadata(folder: Path) -> dict[str, str]:
    return dict(Runtime(folder / "models/theirs/1/model.onnx", provider="cpu").signature.metadata)


def refusal(folder: Path, file: Path, *more: str | Path) -> str:
    """The message about a refused file; nothing is written, not even the repository's folder."""
    before = contents(folder)
    result = take(folder, file, *more)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert contents(folder) == before
    return result.stderr.partition("Error: ")[2].strip()


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.classifier, onnx_models.two_inputs, onnx_models.text, onnx_models.every_type, onnx_models.free_axis,
        onnx_models.gather, partial(onnx_models.sum_and_difference, "BYTES"),
    ],
)  # fmt: skip
def test_a_model_that_may_be_batched_is_published_as_batched(build: Build, tmp_path: Path) -> None:
    result = take(tmp_path, write(tmp_path, build()))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"published {tmp_path / 'models/theirs/1'}\n")
    assert "  batching     batched: the same answers alone and in batches of 2, 3, 7, 16, 64\n" in result.stdout
    written = metadata(tmp_path)
    assert written["batched"] == "true"
    gate = json.loads(written["gate"])
    assert gate["empty batch"]["outcome"] in ("answered", "refused")
    proof = gate["batching"]
    assert proof["lengths"] == ([1, 2, 3, 5] if build is onnx_models.free_axis else [1])
    assert list(json.loads(written["speed"])["median_ms"]) == ["1", "64"]


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (onnx_models.unbatched, "the first axis of 'x' is fixed to 4"),
        (onnx_models.not_a_batch_axis, "first axes have different names: m, n"),
        (onnx_models.recurrent, "'y' of the same input differs between a batch of 1 and a batch of 2"),
        (foreign.softmax_over_the_batch, "'y' of the same input differs between a batch of 1 and a batch of 2"),
        (foreign.scaled_by_the_largest, "'y' of the same input differs between a batch of 1 and a batch of 2"),
        (foreign.backwards, "'y' of the same input differs between a batch of 1 and a batch of 2"),
        (foreign.one_row, "'y' has 1 rows for a batch of 2"),
        (foreign.only_alone, "a batch of 2 fails: "),
        (foreign.at_most_32, "a batch of 64 fails: "),
        (foreign.declared_with_an_axis_too_many, "'y' has no axis"),
        (foreign.streamed, "the first axis of 'state' is fixed to 2"),
        (onnx_models.state, "the first axis of 'state' is fixed to 2"),
        (onnx_models.every_scalar, "'in_BOOL' has no axis"),
    ],
)
def test_a_model_that_must_not_be_batched_is_published_as_unbatched(build: Build, why: str, tmp_path: Path) -> None:
    result = take(tmp_path, write(tmp_path, build()))
    assert result.exit_code == 0, result.output
    assert f"  batching     one request at a time: {why}" in result.stdout
    written = metadata(tmp_path)
    assert written["batched"] == "false"
    assert json.loads(written["gate"])["batching"]["why"].startswith(why)
    assert json.loads(written["gate"])["empty batch"]["outcome"] == "not run"


def test_the_file_is_parsed_once_here_and_once_in_the_child_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child cannot share its model: it runs what it was given in a file."""
    load = Mock(wraps=onnx.load)
    monkeypatch.setattr(onnx, "load", load)
    file = write(tmp_path, onnx_models.classifier())
    probe.probe(file)
    assert load.call_count == 1
    assert take(tmp_path, file).exit_code == 0
    assert load.call_count == 1  # document.read parses the bytes itself


def test_a_config_keeps_triton_from_batching_what_it_must_not(tmp_path: Path) -> None:
    """It names inputs and outputs, since Triton overrides a max_batch_size of 0 without them."""
    config = tmp_path / "models/theirs/config.pbtxt"
    take(tmp_path, write(tmp_path, foreign.backwards()))
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# Written by hangtag export")
    assert lines[1:] == [
        'backend: "onnxruntime"', "max_batch_size: 0",
        'input { name: "x", data_type: TYPE_FP32, dims: [-1, 3] }',
        'output { name: "y", data_type: TYPE_FP32, dims: [-1, 3] }',
    ]  # fmt: skip
    assert config.stat().st_mode & 0o044 == 0o044
    with Server(ServerConfig(models=tmp_path / "models", port=0, http_port=-1, provider="cpu")) as server:
        assert server.address  # hangtag's own server ignores it

    take(tmp_path, write(tmp_path, onnx_models.classifier()))
    assert sorted(path.name for path in config.parent.iterdir()) == ["1", "2"]
    take(tmp_path, write(tmp_path, foreign.softmax_over_the_batch()))
    assert sorted(path.name for path in config.parent.iterdir()) == ["1", "2", "3", "config.pbtxt"]
    config.write_text("# mine\nmax_batch_size: 0\n")
    for model in (foreign.backwards(), onnx_models.classifier()):
        take(tmp_path, write(tmp_path, model))
        assert config.read_text().startswith("# mine\n")


@pytest.mark.parametrize("build", [onnx_models.unbatched, onnx_models.classifier])
def test_no_config_is_written_where_triton_needs_none(build: Build, tmp_path: Path) -> None:
    take(tmp_path, write(tmp_path, build()))
    assert [path.name for path in (tmp_path / "models/theirs").iterdir()] == ["1"]


def test_a_model_with_scalars_is_published_and_served_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path, foreign.streamed())
    assert take(tmp_path, file).exit_code == 0
    x, state = np.arange(16, dtype=np.float32).reshape(1, 16), np.ones((2, 1, 4), np.float32)
    inputs: dict[str, Any] = {"x": x, "state": state, "rate": np.array(3, np.int64)}
    config = ServerConfig(models=tmp_path / "models", port=0, http_port=-1, provider="cpu")
    with Server(config) as server, Client(server.address) as client:
        answer = client.infer("theirs", inputs)
    assert {name: array.tolist() for name, array in answer.items()} == {
        "y": [[10.5], [34.5]],
        "next": [[1] * 4] * 2,
    }


def test_a_file_with_labels_serves_classify_requests(tmp_path: Path) -> None:
    model = onnx_models.classifier()
    del model.metadata_props[:]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(onnx_models.LABELS) + "\n")
    result = take(tmp_path, write(tmp_path, model), "--labels", labels)
    assert result.exit_code == 0, result.output
    config = ServerConfig(models=tmp_path / "models", port=0, http_port=-1, provider="cpu")
    with Server(config) as server, Client(server.address) as client:
        answer = client.classify(np.zeros((28, 28), np.uint8), model="theirs")
    assert answer.labels[0].name == "label 9"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("one\n", "there is 1 label, and the outputs of .* have 10 or 10 values a row"),
        ("one\ntwo\n", "there are 2 labels, and the outputs of .* have 10 or 10 values a row"),
        ("\n \n", "holds no labels: expected one a line, or a JSON list of strings"),
        ("[1, 2]", "holds no labels: expected one a line, or a JSON list of strings"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text: str | bytes, why: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(tmp_path, write(tmp_path, onnx_models.classifier()), "--labels", labels)
    assert re.search(why, message), message


def test_a_files_own_claims_about_its_quality_are_dropped(tmp_path: Path) -> None:
    """Kept are only how to read its outputs, and metadata of others."""
    model = onnx_models.classifier()
    for key, value in (("hangtag.test_accuracy", "0.9999"), ("hangtag.recipe", "magic"), ("hangtag.batched", "false")):
        model.metadata_props.add(key=key, value=value)
    assert take(tmp_path, write(tmp_path, model)).exit_code == 0
    written = metadata(tmp_path)
    assert not {"test_accuracy", "recipe"} & set(written)
    assert (written["batched"], written["task"]) == ("true", "single_label")
    assert written["source"].startswith("theirs.onnx, SHA-256 ")
    there = {entry.key for entry in onnx.load(tmp_path / "models/theirs/1/model.onnx").metadata_props}
    assert "not-ours" in there


def test_a_foreign_model_can_be_shown_and_verified(tmp_path: Path) -> None:
    take(tmp_path, write(tmp_path, onnx_models.free_axis()))
    shown = CliRunner().invoke(main, ["models", "show", "theirs", "--models", str(tmp_path / "models")])
    assert "ReduceSum" in shown.stdout
    verify = ["models", "verify", "--models", str(tmp_path / "models")]
    verified = CliRunner().invoke(main, verify)
    assert verified.exit_code == 0, verified.output
    assert "holds batching batched: the same answers" in " ".join(verified.stdout.split())

    file = tmp_path / "models/theirs/1/model.onnx"
    model = onnx.load(file)
    for entry in model.metadata_props:
        if entry.key == "hangtag.batched":
            entry.value = "false"
    file.write_bytes(model.SerializeToString())
    verified = CliRunner().invoke(main, verify)
    assert verified.exit_code == 1
    assert "DOES NOT HOLD batching" in " ".join(verified.stdout.split())


@pytest.mark.usefixtures("started_children")
def test_a_file_that_aborts_the_process_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, write(tmp_path, foreign.fatal()))
    assert message.startswith("runtime: ONNX Runtime ends the process (signal 6) on ")
    assert message.endswith("Nothing was published.")


def test_a_file_whose_samples_are_too_large_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, write(tmp_path, foreign.of_a_huge_picture()))
    assert message.startswith(
        "runtime: no synthetic input gets an answer; the last: one sample of 'x' has 1,099,511,627,776 values; 67,"
    )


@pytest.mark.usefixtures("started_children")
def test_nothing_in_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the child that probes the file, nor by the one that runs an empty batch."""
    marker = tmp_path / "was run"
    (tmp_path / "numpy.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    result = take(tmp_path, write(tmp_path, onnx_models.gather()))
    assert result.exit_code == 0, result.output
    assert "  batching     batched: " in result.stdout
    assert not marker.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["lstm", "--onnx", "x.onnx", "--name", "x"], [], ["--onnx", "x.onnx"],
    ],
)  # fmt: skip
def test_a_run_and_a_file_are_not_mixed_up(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ("--runs=r", "for a RUN."),
        ("--timing=none", "for a RUN or a file that hangtag exported."),
        ("--data-dir=d", "for a RUN or a file that hangtag exported."),
    ],
)
def test_options_for_a_run_are_refused_with_a_file(option: str, because: str) -> None:
    """Even with their default value, since they would have no effect."""
    result = CliRunner().invoke(main, ["export", "--onnx", "x.onnx", "--name", "x", option])
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]}: {because}" in result.stderr


@pytest.mark.parametrize(
    "option", ["--name=x", "--labels=x.txt", "--max-megabytes=5", "--calibration=x", "--agree-at-least=99"]
)
def test_options_for_a_file_are_refused_with_a_run(option: str) -> None:
    result = CliRunner().invoke(main, ["export", "lstm", option])
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]}: for --onnx alone; a run " in result.stderr
