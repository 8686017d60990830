"""``hangtag models``: what it says of a repository, of a model, and of figures that do not hold any more."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from export import exporter
from hangtag.cli import main
from tests.export import label_sets, runs
from tests.onnx_models import classifier, publish
from tests.shipped import MODELS
from training import data


def models(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an lstm that went through the gate on the whole test set."""
    folder = tmp_path_factory.mktemp("proven")
    test = data.load_test()
    exporter.export(runs.train(folder / "run", "lstm", test.first(300)), folder / "models", test)
    return folder / "models"


def test_it_lists_what_is_there(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "lstm", tmp_path / "lstm")
    publish(tmp_path, "foreign", classifier(), version=3)
    publish(tmp_path, "broken", classifier()).write_bytes(b"not a model")
    (tmp_path / ".publishing-x" / "1").mkdir(parents=True)
    result = models("list", "--models", tmp_path)
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert list(rows) == ["model", "broken", "foreign", "lstm"]
    assert rows["broken"][4:] == ["cannot", "be", "loaded", "-", "-"]
    assert (rows["foreign"][0], rows["foreign"][1], rows["foreign"][-1]) == ("3", "-", "yes")
    assert rows["lstm"][1] == "fp32"
    assert rows["lstm"][-2].endswith("%")

    listed = {row["model"]: row for row in json.loads(models("list", "--models", tmp_path, "--json").stdout)}
    assert listed["foreign"]["version"] == 3
    assert "cannot be loaded by ONNX Runtime" in listed["broken"]["trouble"]
    assert 0.85 < listed["lstm"]["test_accuracy"] < 0.95


def test_without_a_repository_it_says_so(tmp_path: Path) -> None:
    result = models("list", "--models", tmp_path / "none")
    assert result.exit_code == 1
    assert f"{tmp_path / 'none'} is not a folder. Name the model repository with --models." in result.stderr
    assert "'hangtag export' publishes one" in models("list", "--models", tmp_path).stdout


def test_it_shows_a_model(proven: Path) -> None:
    result = models("show", "lstm", "--models", proven)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for part in (
        "input image: UINT8 [any, 28, 28]", "output logits: FP32 [any, 10]", "labels T-shirt/top, Trouser",
        "1 LSTM", "seed 3", "gate: parity limit 0.0001", "gate: empty batch outcome aborted", "graph_digest",
    ):  # fmt: skip
        assert part in said, part

    shown = json.loads(models("show", "lstm", "--models", proven, "--json").stdout)
    assert shown["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert shown["operators"]["LSTM"] == 1
    assert shown["gate"]["agreement"]["images"] == 10_000
    assert shown["provenance"]["recipe"] == "tiny"


def test_alone_it_lists(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options of list."""
    listed = models("list", "--models", proven).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["model", "lstm"]
    assert models("--models", proven).stdout == listed
    assert json.loads(models("--json", "--models", proven).stdout)[0]["model"] == "lstm"
    monkeypatch.setenv("HANGTAG_MODELS_LIST_MODELS", str(proven))
    assert models().stdout == listed
    assert "verify" in models("-h").stdout
    assert models("--json", "show", "lstm").exit_code == 2


def rewritten(proven: Path, models_dir: Path, **told: str) -> Path:
    """The proven model with other metadata."""
    model = onnx.load(proven / "lstm/1/model.onnx")
    there = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, there | {f"hangtag.{key}": value for key, value in told.items()})
    publish(models_dir, "lstm", model)
    return models_dir


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("test_accuracy", "much", "lstm version 1"),
        ("gate", '{"parity": {"limit": {"a": "text"}}}', "gate what is recorded cannot be read"),
        ("gate", "[1]", "gate what is recorded cannot be read"),
        ("speed", '{"median_ms": {"1": {"file": "fast"}}}', "speed what is recorded cannot be read"),
        ("speed", "[1]", "speed what is recorded cannot be read"),
    ],
)
def test_one_file_with_strange_metadata_hides_no_other(
    key: str, value: str, shown: str, proven: Path, tmp_path: Path
) -> None:
    rewritten(proven, tmp_path, **{key: value})
    publish(tmp_path, "beside", classifier())
    result = models("list", "--models", tmp_path)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3), result.output
    result = models("show", "lstm", "--models", tmp_path)
    assert result.exit_code == 0, result.output
    assert shown in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("key", "value", "broken"),
    [
        ("precision", "bf16", {"metadata": "precision is 'bf16', not fp32 or fp16 or int8"}),
        ("task", "other", {"metadata": "task is 'other', not single_label or multi_label"}),
        ("training", "[1]", {"metadata": "training holds no config"}),
        ("gate", "[1]", {"parity": "cannot be read", "agreement": "cannot be read", "batching": "cannot be read"}),
    ],
)
def test_strange_metadata_do_not_hold(
    key: str, value: str, broken: dict[str, str], proven: Path, tmp_path: Path
) -> None:
    result = models("verify", "--models", rewritten(proven, tmp_path, **{key: value}), "--json")
    assert result.exit_code == 1, result.output
    ((verified),) = json.loads(result.stdout)
    found = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert list(found) == list(broken)
    for check, said in broken.items():
        assert said in found[check]


def test_through_a_pipe_nothing_is_wrapped(proven: Path) -> None:
    lines = models("show", "lstm", "--models", proven).stdout.splitlines()
    (labels,) = [line for line in lines if line.startswith("labels ")]
    assert labels.endswith("Sneaker, Bag, Ankle boot")
    assert all(line[0] != " " and line == line.rstrip() for line in lines)


def test_an_unknown_model_or_version_is_answered_with_those_there(proven: Path) -> None:
    assert "holds no model 'cnn'; the models there: lstm." in models("show", "cnn", "--models", proven).stderr
    unknown = models("show", "lstm", "--version", "7", "--models", proven)
    assert unknown.exit_code == 1
    assert "has no version 7; there are 1." in unknown.stderr


def test_what_was_proven_still_holds(proven: Path) -> None:
    result = models("verify", "--models", proven, "--json")
    assert result.exit_code == 0, result.output
    ((verified),) = json.loads(result.stdout)
    found: dict[str, Any] = {finding["check"]: finding for finding in verified["findings"]}
    assert list(found) == ["file", "structure", "parity", "data", "agreement", "batching", "empty batch"]
    assert all(finding["holds"] is True for finding in found.values()), found
    assert found["agreement"]["said"].endswith("100.00% of the answers are PyTorch's (recorded 100.00%)")
    assert "(recorded " in found["parity"]["said"]
    assert " holds " in models("verify", "lstm", "--models", proven).stdout


def change(proven: Path, models_dir: Path, scale: float) -> Path:
    """The proven model with its dense layer's weights multiplied."""
    model = onnx.load(proven / "lstm/1/model.onnx")
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.classifier.weight"]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * scale, weights.name))
    publish(models_dir, "lstm", model)
    return models_dir


@pytest.mark.parametrize(
    ("scale", "broken"), [(1.001, {"file", "parity"}), (-1.0, {"file", "parity", "agreement"})], ids=["louder", "other"]
)
def test_weights_that_were_changed_are_found_out(proven: Path, tmp_path: Path, scale: float, broken: set[str]) -> None:
    changed = change(proven, tmp_path, scale)
    result = models("verify", "--models", changed, "--json")
    assert result.exit_code == 1
    ((verified),) = json.loads(result.stdout)
    assert {finding["check"] for finding in verified["findings"] if finding["holds"] is False} >= broken
    assert "DOES NOT HOLD" in models("verify", "--models", changed).stdout


@pytest.mark.parametrize("off", [-0.01, 0.01])
def test_an_accuracy_that_is_not_the_recorded_one_does_not_hold(proven: Path, tmp_path: Path, off: float) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.test_accuracy"]
    entry.value = f"{float(entry.value) + off:.4f}"
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = [finding["check"] for finding in verified["findings"] if finding["holds"] is False]
    assert broken == ["agreement"], verified


@pytest.mark.parametrize("figure", ["accuracy", "agreement"])
def test_a_figure_of_the_gate_that_is_another_now_does_not_hold(proven: Path, tmp_path: Path, figure: str) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.gate"]
    gate = json.loads(entry.value)
    gate["agreement"][figure] -= 0.05
    entry.value = json.dumps(gate)
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    assert [finding["check"] for finding in verified["findings"] if finding["holds"] is False] == ["agreement"]


def test_figures_of_the_gate_that_are_gone_do_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "hangtag.gate"]
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in kept})
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert broken["parity"] == "what is recorded cannot be read: the gate's figures about parity are missing"


def test_a_data_set_that_is_not_the_recorded_one_does_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.data_digest"]
    entry.value = "0f" * 32
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert list(broken) == ["data"]
    assert broken["data"].startswith("it was trained on another data set: SHA-256 0f0f0f0f0f0f, here d1fd84a877f3")


def test_a_file_that_cannot_be_loaded_does_not_hold(tmp_path: Path) -> None:
    publish(tmp_path, "broken", classifier()).write_bytes(b"")
    result = models("verify", "--models", tmp_path)
    assert result.exit_code == 1
    assert "DOES NOT HOLD file" in " ".join(result.stdout.split())


def test_references_that_cannot_be_read_do_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    for entry in model.metadata_props:
        if entry.key == "hangtag.reference":
            entry.value = "{"
    publish(tmp_path, "lstm", model)
    result = models("verify", "--models", tmp_path)
    assert result.exit_code == 1
    assert "what is recorded cannot be read" in " ".join(result.stdout.split())


def test_sets_of_labels_are_verified_too(tmp_path: Path) -> None:
    garments = data.load_test().first(300)
    run = label_sets.finished(tmp_path / "run", "sigmoids", label_sets.decisive_scores("sigmoids", garments))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "CANVASES", 100)
        exporter.export(run, tmp_path / "models", data.load_test())
    result = models("verify", "--models", tmp_path / "models", "--json")
    assert result.exit_code == 0, result.output
    ((verified),) = json.loads(result.stdout)
    assert [finding["check"] for finding in verified["findings"] if finding["holds"]] == [
        "file", "structure", "parity", "batching", "empty batch",
    ]  # fmt: skip


def test_what_shipped_before_there_was_a_gate_is_verified_as_far_as_it_goes() -> None:
    result = models("verify", "lstm", "--models", MODELS)
    assert result.exit_code == 0, result.output
    assert "holds" in result.stdout


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from hangtag.cli import main
main()
"""


@pytest.mark.parametrize("command", ["list", "show", "verify"])
def test_it_needs_neither_torch_nor_onnx(command: str, proven: Path) -> None:
    """Where a model is served there is only ONNX Runtime."""
    arguments = ["models", command, *([] if command == "list" else ["lstm"]), "--models", str(proven)]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if command != "list":
        assert "the package onnx is not installed" in " ".join(done.stdout.split())


def test_a_certain_version_is_verified(proven: Path, tmp_path: Path) -> None:
    """An older one than the latest, as after a rollback; and it must be said of which model."""
    rewritten(proven, tmp_path, test_accuracy="0.9999")
    (tmp_path / "lstm/2").mkdir()
    shutil.copy(proven / "lstm/1/model.onnx", tmp_path / "lstm/2")
    latest = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    assert [entry["version"] for entry in latest] == [2]
    older = models("verify", "lstm", "--version", "1", "--models", tmp_path, "--json")
    assert older.exit_code == 1
    assert [entry["version"] for entry in json.loads(older.stdout)] == [1]
    for names in ((), ("lstm", "lstm")):
        refused = models("verify", *names, "--version", "1", "--models", tmp_path)
        assert (refused.exit_code, "--version 1 is of one model" in refused.stderr) == (2, True)
