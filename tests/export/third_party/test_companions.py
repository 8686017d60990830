"""`hangtag import` reads the files that timm, Hugging Face and Ultralytics write next to a network."""

import json
import re
from pathlib import Path

import onnx
import pytest

from tests.kit import onnx_file, onnx_models
from tests.kit.colour_networks import COLOURS, in_text
from tests.kit.command import refusal
from tests.kit.exported import imported, importing

pytestmark = pytest.mark.slow

STEPS = "size=24x24 fit=stretch scale=255"


def written(folder: Path) -> dict[str, str]:
    return onnx_file.metadata(folder / "models/theirs/1/model.onnx")


TIMM = {
    "pretrained_cfg": {
        "input_size": [3, 24, 24], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
        "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3],
    },
    "label_names": list(COLOURS),
}  # fmt: skip
HUGGING_FACE = {
    "do_resize": True, "size": {"height": 24, "width": 24}, "resample": 2, "do_rescale": True,
    "rescale_factor": 0.00392156862745098, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3],
}  # fmt: skip
ULTRALYTICS = {"names": "{0: 'red', 1: 'green', 2: 'blue'}", "imgsz": "[24, 24]", "task": "classify"}
ID2LABEL = {"id2label": {"2": "crane", "0": "crane", "1": "heron"}}
CRANES = ("crane (0)", "heron", "crane (2)")
MOBILEVIT = {
    "do_center_crop": True, "size": {"shortest_edge": 27}, "crop_size": {"height": 24, "width": 24}, "resample": 2,
    "do_flip_channel_order": True, "do_pad": False, "feature_extractor_type": "MobileViTFeatureExtractor",
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "properties", "more", "image", "names", "said"),
    [
        ({"config.json": TIMM}, {}, (), {"fit": "crop", "mean": [0.4, 0.5, 0.6]}, COLOURS, "by the method bicubic"),
        ({"config.json": TIMM}, {}, (), {"std": [0.2, 0.25, 0.3]}, COLOURS, "keeps the middle 87.5%"),
        (
            {"preprocessor_config.json": HUGGING_FACE, "config.json": ID2LABEL}, {}, (),
            {"fit": "stretch", "mean": [0.4, 0.5, 0.6]}, CRANES,
            "3 labels from config.json",
        ),
        (
            {"preprocessor_config.json": HUGGING_FACE | {"rescale_factor": 1 / 127.5, "rescale_offset": True},
             "config.json": ID2LABEL},
            {}, (), {"mean": [0.7, 0.75, 0.8], "std": [0.1, 0.125, 0.15]}, CRANES, "mean=1.4,1.5,1.6",
        ),
        (
            {"preprocessor_config.json": HUGGING_FACE | {"include_top": True}, "config.json": ID2LABEL},
            {}, (), {"mean": [0.4, 0.5, 0.6]}, CRANES, "std=0.04,0.0625,0.09",
        ),
        (
            {"preprocessor_config.json": MOBILEVIT, "config.json": ID2LABEL},
            {}, (), {"fit": "crop", "mean": [0.0]}, CRANES, "24x24 fit=crop order=bgr scale=255",
        ),
        (
            {"preprocessor_config.json": HUGGING_FACE}, {},
            ("--labels", "labels.txt", "--preprocessing", "fit=pad mean=0.5"),
            {"fit": "pad", "mean": [0.5], "std": [0.2, 0.25, 0.3]}, COLOURS,
            "--preprocessing fit=pad mean=0.5 takes precedence over",
        ),
        ({}, ULTRALYTICS, (), {"fit": "crop", "mean": [0.0]}, COLOURS, "the metadata of theirs.onnx"),
    ],
    ids=["timm", "timm's crop", "Hugging Face", "offset", "top", "BGR", "options win", "Ultralytics"],
)  # fmt: skip
def test_what_lies_with_the_file_is_taken_and_named(
    files: dict[str, object],
    properties: dict[str, str],
    more: tuple[str, ...],
    image: dict[str, object],
    names: tuple[str, ...],
    said: str,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    model = in_text(last="logits = Softmax(scores)" if properties else "logits = Identity(scores)")
    onnx.helper.set_model_props(model, properties)
    result = imported(tmp_path, model, *more)
    described = written(tmp_path)
    assert json.loads(described["image"]).items() >= image.items()
    assert json.loads(described["labels"]) == list(names)
    assert said in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "preprocessor_config.json",
            '{"size": ',
            r"json cannot be read: it is not JSON: see line 1, column 10\. Correct the file",
        ),
        ("config.json", "[]", r"^\S+config.json cannot be read: it is not a JSON object\. Correct"),
        ("config.json", '{"pretrained_cfg": {"input_size": [3, 9, 9]}}', "for timm's pretrained_cfg: it lacks 'mean'"),
        ("config.json", '{"id2label": {"0": "a", "2": "b"}}', "for id2label: its labels do not have the numbers 0, 1"),
        ("preprocessor_config.json", '{"size": 9, "rescale_factor": 0}', "Hugging Face: a value is of the wrong kind"),
        ("preprocessor_config.json", '{"size": 9, "do_pad": true}', "know what do_pad does .* --preprocessing and"),
    ],
)
def test_what_is_damaged_there_is_refused_unless_the_options_say_all(
    name: str, content: str, message: str, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    reason = refusal(*importing(tmp_path, in_text(), "--preprocessing", STEPS), unchanged=tmp_path)
    assert re.search(message, reason), reason
    result = imported(tmp_path, in_text(), "--labels", labels, "--preprocessing", STEPS)
    assert re.search(rf"  note +\S+{name} cannot be ", result.stdout)


def test_files_of_other_networks_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUGGING_FACE))
    (tmp_path / "config.json").write_text(json.dumps(ID2LABEL))
    result = imported(tmp_path, onnx_models.two_inputs())
    assert "  classify     `hangtag classify` will not accept pictures: the network's inputs (a" in result.stdout
    assert "labels" not in written(tmp_path)


@pytest.mark.parametrize(
    ("size", "names", "why"),
    [
        (24, ("crane", "heron"), r"none has one score for each of 2 labels"),
        (9, COLOURS, r"size=9x9 does not fit .*, which needs .* \(size=9x9 .* from preprocessor_config.json \(Hugging"),
    ],
)
def test_a_description_that_does_not_fit_is_the_reason_why_there_is_no_classifier(
    size: int, names: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    """The command warns that it does not use the preprocessing in the files."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HUGGING_FACE | {"size": size}))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    assert re.search(why, refusal(*importing(tmp_path, in_text(), "--data", "folder:photos"), unchanged=tmp_path))
    assert re.search(rf"\n  WARNING .* mean=0\.4.* is not part .*{why}", imported(tmp_path, in_text()).stdout)


def test_labels_without_names_are_not_compared_with_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}')
    measuring = importing(tmp_path, in_text(), "--preprocessing", STEPS, "--data", "folder:photos")
    assert "its labels have no names (LABEL_0 and so on): name them with --labels FILE" in refusal(*measuring)
