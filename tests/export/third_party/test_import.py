"""``hangtag import`` accepts published models, batched or not, and writes nothing if it refuses a file."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest

from tests.kit import onnx_file, onnx_models, unbatchable_models
from tests.kit.exported import import_refused, imported
from tests.kit.shipped import latest

pytestmark = pytest.mark.slow

Build = Callable[[], onnx.ModelProto]


def metadata(folder: Path) -> dict[str, str]:
    return onnx_file.metadata(folder / "models/theirs/1/model.onnx")


@pytest.mark.parametrize(
    "build",
    [
        onnx_models.classifier,
        onnx_models.two_inputs,
        onnx_models.text,
        onnx_models.every_type,
        onnx_models.free_axis,
        partial(onnx_models.sum_and_difference, "BYTES"),
        lambda: onnx.load(latest("lstm")),
    ],
)
def test_a_model_that_may_be_batched_is_published_as_batched(build: Build, tmp_path: Path) -> None:
    result = imported(tmp_path, build())
    assert result.stdout.startswith(f"published {tmp_path / 'models/theirs/1'}\n")
    assert "  batching     batched: the same answers alone and in batches of 2, 3, 7, 16, 64\n" in result.stdout
    assert metadata(tmp_path)["batched"] == "true"
    gate = json.loads(metadata(tmp_path)["gate"])
    assert gate["batching"]["lengths"] == ([1, 2, 3, 5] if build is onnx_models.free_axis else [1])


BATCH_DIFFERS = "'y' of the same input differs between a batch of 1 and a batch of 2"


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (onnx_models.unbatched, "the first axis of 'x' is fixed to 4"),
        (onnx_models.not_a_batch_axis, "first axes have different names: m, n"),
        (onnx_models.recurrent, BATCH_DIFFERS),
        (unbatchable_models.reversal, BATCH_DIFFERS),
        (unbatchable_models.one_row, "'y' has 1 rows for a batch of 2"),
        (unbatchable_models.only_alone, "a batch of 2 fails: "),
        (unbatchable_models.at_most_32, "a batch of 64 fails: "),
        (unbatchable_models.declared_with_an_axis_too_many, "'y' has no axis"),
        (onnx_models.state, "the first axis of 'state' is fixed to 2"),
        (onnx_models.every_scalar, "'in_BOOL' has no axis"),
    ],
)
def test_a_model_that_must_not_be_batched_is_published_as_unbatched(build: Build, why: str, tmp_path: Path) -> None:
    assert f"  batching     one request at a time: {why}" in imported(tmp_path, build()).stdout
    assert metadata(tmp_path)["batched"] == "false"
    gate = json.loads(metadata(tmp_path)["gate"])
    assert gate["batching"]["why"].startswith(why)


FIXED = "steps = QuantizeLinear(x, scale, zero) rounded = DequantizeLinear(steps, scale, zero)"
BY_BATCH = "found, one, none = DynamicQuantizeLinear(x) again = DequantizeLinear(found, one, none)"


@pytest.mark.parametrize(
    ("rounding", "source", "share", "batched"),
    [
        (FIXED, "rounded", 0.01, True),
        (FIXED, "rounded", 0.5, False),
        ("", "x", 0.01, False),
        (FIXED + BY_BATCH, "rounded", 0.01, False),
    ],
    ids=["by a step", "by more than steps", "without 8 bits", "scales of the batch"],
)
def test_a_model_in_8_bits_may_be_batched_where_answers_differ_by_steps(
    tmp_path: Path, rounding: str, source: str, share: float, batched: bool
) -> None:
    shifted = onnx_models.from_text(
        f"""(float[batch, 3] x) => (float[batch, 3] y)
        <float scale = {{0.05}}, int8 zero = {{0}}, float share = {{{share}}}, int64[1] samples = {{0}}> {{
            {rounding}
            mean = ReduceMean(x, samples)
            shift = Mul(mean, share)
            y = Add({source}, shift)
        }}"""
    )
    imported(tmp_path, shifted)
    assert metadata(tmp_path)["batched"] == json.dumps(batched)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("one\n", "there is 1 label, but a row of .*'s outputs has 10 or 10 values"),
        ("\n \n", "holds no labels: expected one label per line, or a JSON list of strings"),
        ("[1, 2]", "holds no labels: expected one label per line, or a JSON list of strings"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text: str | bytes, why: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = import_refused(tmp_path, onnx_models.classifier(labels="[]"), "--labels", labels)
    assert re.search(why, message), message


def test_a_files_own_claims_about_its_quality_are_dropped(tmp_path: Path) -> None:
    """Of hangtag's metadata, the command keeps only the description of the outputs. It also keeps other programs'
    metadata."""
    model = onnx_models.classifier()
    for key, value in (("hangtag.test_accuracy", "0.9999"), ("hangtag.recipe", "magic"), ("hangtag.batched", "false")):
        model.metadata_props.add(key=key, value=value)
    imported(tmp_path, model)
    written = metadata(tmp_path)
    assert not {"test_accuracy", "recipe"} & set(written)
    assert (written["batched"], written["task"]) == ("true", "single_label")
    assert written["source"].startswith("theirs.onnx, SHA-256 ")
    there = {entry.key for entry in onnx.load(tmp_path / "models/theirs/1/model.onnx").metadata_props}
    assert "not-ours" in there


# Refused files.


def test_a_file_that_cannot_be_proven_is_refused(tmp_path: Path) -> None:
    reason = import_refused(tmp_path, unbatchable_models.of_a_huge_picture())
    assert re.search(
        r"^runtime: the model fails on every .* 'x' has 1,099,511,627,776 values; the limit is 67,", reason
    ), reason


@pytest.mark.usefixtures("started_children")
def test_nothing_in_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "was run"
    (tmp_path / "numpy.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    assert "  batching     batched: " in imported(tmp_path, onnx_models.gather()).stdout
    assert not marker.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/cnn", ".hidden", "-cnn", "a b", "cnn\n", "cnn\0"])
def test_a_name_that_would_leave_the_repository_is_refused(name: str, tmp_path: Path) -> None:
    message = import_refused(tmp_path, onnx_models.classifier(), f"--name={name}")
    assert re.search(r"model name .*: use letters, digits", message)


def test_a_route_and_a_repository_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    route = tmp_path / "models/theirs/route.toml"
    route.parent.mkdir(parents=True)
    route.write_text("split = {cnn = 100}")
    message = import_refused(tmp_path, onnx_models.classifier())
    assert message.startswith(f"theirs is a route, which calls other models: {route}. Publish the")
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "models/other").write_text("a file, not a folder")
    for more in (["--models", tmp_path / "file/models"], ["--name", "other"]):
        message = import_refused(tmp_path, onnx_models.unbatched(), *more)
        assert re.search(r"models cannot be written: .*Nothing was published", message)
