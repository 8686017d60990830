"""``hangtag models list`` and ``show``: the description of a repository and of a model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hangtag.proven import models, rewritten
from tests.kit import dependent_rows
from tests.kit.onnx_models import classifier, publish, unbatched
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def test_it_lists_every_version_of_every_model(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "lstm", tmp_path / "lstm")
    publish(tmp_path, "foreign", classifier(), version=3)
    publish(tmp_path, "broken", classifier()).write_bytes(b"not a model")
    (tmp_path / ".publishing-x" / "1").mkdir(parents=True)
    result = models("list", "--models", tmp_path)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["model", "broken", "foreign", "lstm", "lstm"]
    broken, foreign, newer, older = rows[1:]
    assert broken[6:] == ["cannot", "be", "loaded", "-", "-", "-"]
    assert (foreign[1], foreign[3], foreign[-2]) == ("3", "-", "yes")
    assert (newer[1:4], older[1:4]) == (["2", "yes", "fp32"], ["1", "-", "fp32"])
    assert newer[7].endswith("%")
    assert " ".join(newer[9:]).startswith("recipe best, seed 0, trained 20")

    listed = {row["model"]: row for row in json.loads(models("list", "--models", tmp_path, "--json").stdout)}
    assert listed["foreign"]["version"] == 3
    assert "cannot be loaded by ONNX Runtime" in listed["broken"]["trouble"]
    assert 0.85 < listed["lstm"]["test_accuracy"] < 0.95


def test_it_says_why_requests_are_not_joined(tmp_path: Path) -> None:
    publish(tmp_path, "foreign", classifier())
    publish(tmp_path, "softmax", dependent_rows.softmax({"hangtag.batched": "true"}))
    publish(tmp_path, "unbatched", unbatched())
    why = "rows were tried alone and together: 'y' of the same input differs between a batch of 1 and a batch of 2"
    lines = models("list", "--models", tmp_path).stdout.splitlines()
    assert {line.split()[0]: line.split()[-2] for line in lines[1:4]} == {
        "foreign": "yes",
        "softmax": "no",
        "unbatched": "no",
    }
    assert lines[4:] == [
        f"softmax version 1 is not batched: {why}",
        "unbatched version 1 is not batched: the first axis of 'x' is fixed to 4",
    ]
    listed = json.loads(models("list", "--models", tmp_path, "--json").stdout)
    assert [(row["batched"], row.get("unbatched_because")) for row in listed] == [
        (True, None),
        (False, why),
        (False, "the first axis of 'x' is fixed to 4"),
    ]
    assert f"because {why}" in models("show", "softmax", "--models", tmp_path).stdout
    verified = models("verify", "softmax", "--models", tmp_path)
    assert verified.exit_code == 1
    assert "DOES NOT HOLD batching" in " ".join(verified.stdout.split())


def test_a_missing_repository_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    result = models("list", "--models", tmp_path / "none")
    assert result.exit_code == 1
    assert f"{tmp_path / 'none'} is not a folder. Name the model repository with --models;" in result.stderr
    assert "'hangtag export' publishes one" in models("list", "--models", tmp_path).stdout


def test_it_shows_a_model(proven: Path) -> None:
    result = models("show", "lstm", "--models", proven)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for part in (
        "input image: UINT8 [any, 28, 28]", "output logits: FP32 [any, 10]", "labels T-shirt/top, Trouser",
        "1 LSTM", "seed 3", "gate: parity limit 0.0001", "gate: empty batch outcome aborted", "graph_digest",
        "precision fp32",
    ):  # fmt: skip
        assert part in text, part

    shown = json.loads(models("show", "lstm", "--models", proven, "--json").stdout)
    assert shown["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert shown["operators"]["LSTM"] == 1
    assert shown["gate"]["agreement"]["images"] == 10_000
    assert shown["provenance"]["recipe"] == "tiny"
    assert "processor" in shown["provenance"]


def test_without_a_subcommand_it_lists(proven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = models("list", "--models", proven).stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["model", "lstm"]
    assert models("--models", proven).stdout == listed
    assert json.loads(models("--json", "--models", proven).stdout)[0]["model"] == "lstm"
    monkeypatch.setenv("HANGTAG_MODELS_LIST_MODELS", str(proven))
    assert models().stdout == listed
    assert "verify" in models("-h").stdout
    assert models("--json", "show", "lstm").exit_code == 2


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("test_accuracy", "much", "lstm version 1"),
        ("gate", '{"parity": {"limit": {"a": "text"}}}', "gate the recorded figures cannot be read"),
        ("gate", "[1]", "gate the recorded figures cannot be read"),
        ("speed", '{"median_ms": {"1": {"file": "fast"}}}', "speed the recorded figures cannot be read"),
        ("speed", "[1]", "speed the recorded figures cannot be read"),
    ],
)
def test_one_file_with_strange_metadata_hides_no_other(
    key: str, value: str, shown: str, proven: Path, tmp_path: Path
) -> None:
    rewritten(proven, tmp_path, **{key: value})
    publish(tmp_path, "another", classifier())
    result = models("list", "--models", tmp_path)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3), result.output
    result = models("show", "lstm", "--models", tmp_path)
    assert result.exit_code == 0, result.output
    assert shown in " ".join(result.stdout.split())


def test_through_a_pipe_nothing_is_wrapped(proven: Path) -> None:
    lines = models("show", "lstm", "--models", proven).stdout.splitlines()
    (labels,) = [line for line in lines if line.startswith("labels ")]
    assert labels.endswith("Sneaker, Bag, Ankle boot")
    assert all(line[0] != " " and line == line.rstrip() for line in lines)


def test_an_unknown_model_or_version_is_answered_with_the_existing_ones(proven: Path) -> None:
    assert "holds no model 'cnn'; the models there: lstm." in models("show", "cnn", "--models", proven).stderr
    unknown = models("show", "lstm", "--version", "7", "--models", proven)
    assert unknown.exit_code == 1
    assert "has no version 7; there are 1." in unknown.stderr


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
    """A machine that serves has ONNX Runtime alone."""
    arguments = ["models", command, *([] if command == "list" else ["lstm"]), "--models", str(proven)]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if command != "list":
        assert "the package onnx is not installed" in " ".join(done.stdout.split())
