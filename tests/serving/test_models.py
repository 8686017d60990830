"""What an ONNX file states about tensors, labels and label sets, and what the axes of its graph say about batching."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.model_repository import (
    ModelNameError,
    ModelRepositoryError,
    find_file,
    names,
    require_names,
    require_versions,
    serving_versions,
    versions,
)
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError

Axes = Sequence[int | str | None]
X = TensorSpec.from_onnx("x", "tensor(uint8)", ["batch", 28, 28])
Y = TensorSpec.from_onnx("y", "tensor(float)", [None, 10])


def signature(**properties: str) -> Signature:
    return Signature.from_onnx([X], [Y], {f"hangtag.{key}": value for key, value in properties.items()})


@pytest.mark.parametrize("type_", ["tensor(bfloat16)", "tensor(complex64)", "seq(map(int64,tensor(float)))"])
def test_a_type_that_the_protocol_lacks_is_refused(type_: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"'x' is a .*, a type that the Open Inference Protocol does not have"
    ):
        TensorSpec.from_onnx("x", type_, [1])


def test_metadata_is_ours_alone() -> None:
    read = Signature.from_onnx([X], [Y], {"hangtag.task": "single_label", "other": "1"})
    assert read.metadata == {"task": "single_label"}
    assert (read.task, read.labels, signature().task) == ("single_label", (), None)
    assert signature(labels='["b", "a", "å"]').labels == ("b", "a", "å")


def test_the_files_batching_property_overrides_its_axes_and_the_operators_setting_overrides_both() -> None:
    assert signature().batched
    assert signature(batched="false").why_unbatched == "hangtag.batched in its file forbids batching"
    assert of_axes({"x": ["rows", 2]}, {"y": [None]}, {"hangtag.batched": "true"}).batched
    assert of_axes({"x": ["batch"]}, {"y": ["batch"]}, {"hangtag.batched": "false"}, True).batched
    unbatched = of_axes({"x": ["batch"]}, {"y": ["batch"]}, {"hangtag.batched": "true"}, False)
    assert unbatched.why_unbatched == "the operator forbids batching"


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("labels", ["", "[", '["a"', "nonsense", '"abc"', "5", "null", '{"a": 1}', "[1, 2]", "[null]"]),
        ("batched", ["", "True", "1", "yes", "[true]"]),
        ("label_distances", ["null", "[]", "[[0, 1]]", "[[0], [0]]", "[[0, 1, 1], [1, 0, 1]]", "[[0, 1], 5]"]),
        ("label_distances", ['{"a": 1}', "7", '[[0, 1], "ab"]', "", "{", "nonsense", DEEP]),
        ("label_distances", [f"[[{row}], [1, 0]]" for row in ("0, 2", "0, -0.1", "0, NaN", "0.1, 1", '0, "1"')]),
        ("label_distances", [f"[[{row}], [1, 0]]" for row in ("0, true", "0, null", "0, Infinity", "0, []")]),
        ("threshold", ["1.5", "-1", "NaN", "true", '"0.5"', "[0.5]", "null", "", "{", "nonsense", DEEP]),
        ("min_labels", ["-1", "1.0", "true", '"1"', "null", "", "{", "nonsense", DEEP]),
    ],
)
def test_metadata_that_cannot_be_read_is_refused_by_its_name(key: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(UnsupportedModelError, match=rf"hangtag\.{key} "):
            signature(**{"labels": '["a", "b"]', key: value})


def of_axes(inputs: dict[str, Axes], outputs: dict[str, Axes], *more: Any) -> Signature:
    """The signature of a graph with these axes. ``more`` is the metadata and the operator's setting for batching."""

    def specs(tensors: dict[str, Axes]) -> list[TensorSpec]:
        return [TensorSpec.from_onnx(name, "tensor(float)", axes) for name, axes in tensors.items()]

    return Signature.from_onnx(specs(inputs), specs(outputs), *(more or ({},)))


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"image": ["batch", 28, 28]}, {"logits": ["batch", 10], "probabilities": ["batch", 10]}, None),
        ({"x": ["batch_size", 3]}, {"y": ["batch_size"]}, None),
        ({"x": ["N", 3, "H", "W"]}, {"y": ["N", 10, "H2", "W2"]}, None),
        ({"x": [None, 4]}, {"y": [None]}, None),  # skl2onnx and Keras
        ({"x": [-1, None]}, {"y": [-1, 1]}, None),
        ({"x": ["unk__214", 2048]}, {"y": ["unk__215", 214]}, None),  # tf2onnx
        ({"x": ["batch", 3]}, {"y": ["Addy_dim_0", 3]}, None),  # torch.onnx, after a reshape of the batch axis
        ({"x": ["s77", 3]}, {"y": ["s77", 3]}, None),  # torch.onnx with dynamo=True
        ({"x": ["inputBatch", 3]}, {"y": ["outputBatch", 3]}, None),
        ({"ids": ["batch", "length"]}, {"y": ["batch", "length", 8]}, None),  # a text encoder
        ({"a": ["batch", 3], "b": [None, 4]}, {"y": [None, 1]}, None),
        ({"x": ["n"]}, {"y": ["m"]}, "first axes have different names: m, n"),
        ({"x": ["n"], "z": ["m"]}, {"y": ["n"]}, "first axes have different names: m, n"),
        ({"x": ["batch", 3]}, {"y": ["boxes", 4]}, "first axes have different names: batch, boxes"),
        ({"x": ["s0", "s0"]}, {"y": ["s0"]}, "'x' has the batch in two axes"),
        ({"x": ["n", 3]}, {"distances": ["n", "n"]}, "'distances' has the batch in two axes"),
        ({"x": ["length"]}, {"y": [None]}, "the first axis of 'x' is called 'length', which need not be the batch"),
        ({"x": [None]}, {"y": ["boxes"]}, "the first axis of 'y' is called 'boxes', which need not be the batch"),
        ({"x": ["s0", "batch", 3]}, {"y": ["s0", "batch", 3]}, "the axis 'batch' is not the first axis of 'x'"),
        ({"a": ["s0"], "b": ["s1"]}, {"y": [None]}, "the first axes of the model's inputs may differ in size: s0, s1"),
    ],
)
def test_what_the_axes_say_about_batching_unless_the_operator_decides(
    inputs: dict[str, Axes], outputs: dict[str, Axes], why: str | None
) -> None:
    assert of_axes(inputs, outputs).why_unbatched == why
    assert of_axes(inputs, outputs, {}, True).batched


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({}, {"y": ["batch", 10]}, "the model has no input"),
        ({"x": ["batch", 3], "rate": []}, {"y": ["batch"]}, "'rate' has no axis"),
        ({"x": ["batch", 3]}, {"total": []}, "'total' has no axis"),
        ({"x": ["batch", 3], "state": [2, "batch", 8]}, {"y": ["batch"]}, "the first axis of 'state' is fixed to 2"),
        ({"x": ["batch", 3]}, {"state": [2, "batch", 8]}, "the first axis of 'state' is fixed to 2"),
    ],
)
def test_no_setting_batches_a_model_without_a_batch_axis(
    inputs: dict[str, Axes], outputs: dict[str, Axes], why: str
) -> None:
    assert of_axes(inputs, outputs).why_unbatched == why
    for properties, setting in (({"hangtag.batched": "true"}, None), ({}, True)):
        with pytest.raises(UnsupportedModelError, match=f"demands batching, but requests cannot be batched: {why}"):
            of_axes(inputs, outputs, properties, setting)


def add(models: Path, *paths: str) -> None:
    for version in paths:
        (models / version).mkdir(parents=True)
        (models / version / "model.onnx").touch()


def numbers(models: Path, name: str) -> list[int]:
    return [file.version for file in versions(models, name)]


def test_other_files_and_folders_are_ignored_and_links_followed(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "1")
    models = tmp_path / "models"
    add(models, "m/1", "m/01", "m/v2", "m/-3", "m/0", ".git/1")
    (models / "README.md").touch()
    (models / "m/labels.txt").touch()
    (models / "m/7").mkdir()  # a folder whose file has not been copied yet
    (models / "m/8/model.onnx").mkdir(parents=True)
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(models) == ["linked", "m"]
    assert numbers(models, "m") == numbers(models, "linked") == [1]


@pytest.mark.parametrize(
    "name", ["..", "../m", "m/../m", "/etc", "m/1", ".git", "", "m\0", "a b", "~", "-m", "m\n", "é", "m" * 256]
)
def test_a_name_that_could_leave_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    add(tmp_path, "m/1")
    with pytest.raises(ModelNameError):
        versions(tmp_path / "m", name)


def test_what_is_no_repository_is_named_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    models = tmp_path / "models"
    add(models, "m/2", "m/10")
    (models / "route").mkdir()
    (models / "route/route.toml").touch()
    assert [file.name for file in serving_versions(models)] == ["m"]
    (models / "bad/latest").mkdir(parents=True)
    assert not names(tmp_path / "empty")
    assert not versions(models, "bad")
    for call, facts in (
        (lambda: names(tmp_path / "nowhere"), r"nowhere is not a folder.* --models"),
        (lambda: names(tmp_path / "file"), "file is not a folder"),
        (lambda: require_names(tmp_path / "empty"), r"expected .*/<name>/<version>/model\.onnx"),
        (lambda: require_versions(models, "bad"), r"bad has no version .*bad/<version>/model\.onnx"),
        (lambda: require_versions(models, "good"), r"no model 'good'; the models there: bad, m"),
        (lambda: require_versions(models, "route"), r"route is a route.*route\.toml"),
        (lambda: require_versions(models / "m", "10"), r"m is one model's folder.* name the folder above it"),
    ):
        with pytest.raises(ModelRepositoryError, match=facts):
            call()


def test_a_file_is_named_by_its_path_its_versions_folder_or_its_models_folder(tmp_path: Path) -> None:
    add(tmp_path, "m/2", "m/10")
    assert find_file(str(tmp_path / "m")) == find_file(str(tmp_path / "m/10")) == tmp_path / "m/10/model.onnx"
    assert find_file(str(tmp_path / "m/2")) == tmp_path / "m/2/model.onnx"
    assert find_file("nowhere/file.onnx") == Path("nowhere/file.onnx")
    assert find_file(str(tmp_path)) is None
    assert find_file("a run's name") is None


@pytest.mark.parametrize(
    "content",
    ["version = ", "", "version = 0", "version = true", "version = 'x'", "version = 1\nhistory = 2", "other = 1"],
)
def test_a_promotion_that_cannot_be_understood_is_an_error_and_no_guess(tmp_path: Path, content: str) -> None:
    add(tmp_path, "m/1")
    (tmp_path / "m/promoted.toml").write_text(content)
    with pytest.raises(ModelRepositoryError, match=r"m/promoted\.toml .*'hangtag models promote NAME VERSION'"):
        versions(tmp_path, "m")
