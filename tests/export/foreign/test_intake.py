"""``hangtag export --onnx``: what is taken, as what, and what is refused with nothing written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export import child_process
from hangtag.export.foreign import probe
from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from tests import onnx_models
from tests.export.foreign import forked
from tests.export.foreign import models as foreign
from tests.export.runs import contents

Make = Callable[[], onnx.ModelProto]


def take(folder: Path, file: Path, *more: str | Path) -> Result:
    arguments = ["export", "--onnx", str(file), "--name", "theirs", "--models", str(folder / "models"), *map(str, more)]
    arguments += ["--reports", str(folder / "reports")]
    return CliRunner().invoke(main, arguments)


def write(folder: Path, model: onnx.ModelProto) -> Path:
    file = folder / "theirs.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is run in a process of its own, but one that need not start Python anew."""
    monkeypatch.setattr(child_process, "run", forked.run)


def metadata(folder: Path) -> dict[str, str]:
    return dict(Runtime(folder / "models/theirs/1/model.onnx", provider="cpu").signature.metadata)


def refusal(folder: Path, file: Path, *more: str | Path) -> str:
    """What is said of a file that is refused; the repository stays as it was, here: is not made."""
    before = contents(folder)
    result = take(folder, file, *more)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert contents(folder) == before
    return result.stderr.partition("Error: ")[2].strip()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "make",
    [
        onnx_models.classifier, onnx_models.two_inputs, onnx_models.text, onnx_models.every_type, onnx_models.free_axis,
        onnx_models.gather,
    ],
)  # fmt: skip
def test_what_may_be_batched_is_published_as_such(make: Make, tmp_path: Path) -> None:
    result = take(tmp_path, write(tmp_path, make()))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"published {tmp_path / 'models/theirs/1'}\n")
    assert "  batching     batched: the same answers alone and in batches of 2, 3, 7, 16, 64\n" in result.stdout
    told = metadata(tmp_path)
    assert told["batched"] == "true"
    gate = json.loads(told["gate"])
    assert gate["empty batch"]["outcome"] in ("answered", "refused")
    proof = gate["batching"]
    assert proof["lengths"] == ([1, 2, 3, 5] if make is onnx_models.free_axis else [1])
    assert list(json.loads(told["speed"])["median_ms"]) == ["1", "64"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("make", "why"),
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
    ],
)
def test_what_may_not_be_batched_is_published_as_such(make: Make, why: str, tmp_path: Path) -> None:
    result = take(tmp_path, write(tmp_path, make()))
    assert result.exit_code == 0, result.output
    assert f"  batching     one request at a time: {why}" in result.stdout
    told = metadata(tmp_path)
    assert told["batched"] == "false"
    assert json.loads(told["gate"])["batching"]["why"].startswith(why)
    assert json.loads(told["gate"])["empty batch"]["outcome"] == "not asked"


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_triton_is_told_not_to_join_what_it_would(tmp_path: Path) -> None:
    """With inputs and outputs: of a configuration without them Triton overrides the 0."""
    config = tmp_path / "models/theirs/config.pbtxt"
    take(tmp_path, write(tmp_path, foreign.backwards()))
    said = config.read_text().splitlines()
    assert said[0].startswith("# Written by hangtag export")
    assert said[1:] == [
        'backend: "onnxruntime"', "max_batch_size: 0",
        'input { name: "x", data_type: TYPE_FP32, dims: [-1, 3] }',
        'output { name: "y", data_type: TYPE_FP32, dims: [-1, 3] }',
    ]  # fmt: skip
    assert config.stat().st_mode & 0o044 == 0o044
    with Server(ServerConfig(models=tmp_path / "models", port=0, provider="cpu")) as server:
        assert server.address  # hangtag's own server is not disturbed by it

    take(tmp_path, write(tmp_path, onnx_models.classifier()))
    assert sorted(path.name for path in config.parent.iterdir()) == ["1", "2"]
    take(tmp_path, write(tmp_path, foreign.softmax_over_the_batch()))
    assert sorted(path.name for path in config.parent.iterdir()) == ["1", "2", "3", "config.pbtxt"]
    config.write_text("# mine\nmax_batch_size: 0\n")
    for made in (foreign.backwards(), onnx_models.classifier()):
        take(tmp_path, write(tmp_path, made))
        assert config.read_text().startswith("# mine\n")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("make", [onnx_models.unbatched, onnx_models.classifier])
def test_what_triton_does_right_by_itself_needs_no_configuration(make: Make, tmp_path: Path) -> None:
    take(tmp_path, write(tmp_path, make()))
    assert [path.name for path in (tmp_path / "models/theirs").iterdir()] == ["1"]


def test_with_labels_it_can_be_asked_to_classify(tmp_path: Path) -> None:
    made = onnx_models.classifier()
    del made.metadata_props[:]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(onnx_models.LABELS) + "\n")
    result = take(tmp_path, write(tmp_path, made), "--labels", labels)
    assert result.exit_code == 0, result.output
    config = ServerConfig(models=tmp_path / "models", port=0, provider="cpu")
    with Server(config) as server, Client(server.address) as client:
        answer = client.classify(np.zeros((28, 28), np.uint8), model="theirs")
    assert answer.labels[0].name == "label 9"


@pytest.mark.usefixtures("quick")
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
    said = refusal(tmp_path, write(tmp_path, onnx_models.classifier()), "--labels", labels)
    assert re.search(why, said), said


def test_what_a_file_says_of_its_own_quality_is_not_repeated(tmp_path: Path) -> None:
    """Only how its outputs are to be read, and what is not ours."""
    made = onnx_models.classifier()
    for key, value in (("hangtag.test_accuracy", "0.9999"), ("hangtag.recipe", "magic"), ("hangtag.batched", "false")):
        made.metadata_props.add(key=key, value=value)
    assert take(tmp_path, write(tmp_path, made)).exit_code == 0
    told = metadata(tmp_path)
    assert not {"test_accuracy", "recipe"} & set(told)
    assert (told["batched"], told["task"]) == ("true", "single_label")
    assert told["source"].startswith("theirs.onnx, SHA-256 ")
    there = {entry.key for entry in onnx.load(tmp_path / "models/theirs/1/model.onnx").metadata_props}
    assert "not-ours" in there


def test_it_is_shown_and_verified_like_any_other(tmp_path: Path) -> None:
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


def test_one_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, write(tmp_path, foreign.fatal()))
    assert said.startswith("runtime: ONNX Runtime ends the process (signal 6) on ")
    assert said.endswith("Nothing was published.")


def test_one_whose_samples_are_too_large_to_be_tried_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, write(tmp_path, foreign.of_a_huge_picture()))
    assert said.startswith(
        "runtime: no synthetic input gets an answer; the last: one sample of 'x' has 1,099,511,627,776 values; 67,"
    )


def test_nothing_in_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the child that runs the file, nor by the one that asks about an empty batch."""
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


@pytest.mark.parametrize("option", ["--runs=r", "--precision=fp32", "--timing=none", "--data-dir=d"])
def test_what_is_for_a_run_is_not_given_with_a_file(option: str) -> None:
    """Nor its default: what would go unused is refused."""
    result = CliRunner().invoke(main, ["export", "--onnx", "x.onnx", "--name", "x", option])
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]}: for a RUN; --onnx takes a file as it is." in result.stderr


@pytest.mark.parametrize("option", ["--name=x", "--labels=x.txt", "--max-megabytes=5"])
def test_what_is_for_a_file_is_not_given_with_a_run(option: str) -> None:
    result = CliRunner().invoke(main, ["export", "lstm", option])
    assert result.exit_code == 2
    assert f"{option.partition('=')[0]}: for --onnx alone; a run has its own." in result.stderr
