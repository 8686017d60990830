"""``hangtag models fit`` makes a classifier accept pictures of any size."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from hangtag.serving.client import Client, ClientError
from tests.kit import colour_networks, onnx_file, onnx_models
from tests.kit.colour_networks import COLOURS, in_text
from tests.kit.command import invoke, refusal
from tests.kit.exported import imported
from tests.kit.picture_files import encoded
from tests.kit.server import server
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def test_pictures_of_other_sizes_are_taken_from_then_on(tmp_path: Path) -> None:
    first = onnx_models.publish(tmp_path, "theirs", onnx_file.with_metadata(onnx_models.classifier(), image=None))
    assert (
        invoke("models", "fit", "theirs", "--fit", "pad", "--models", tmp_path).stdout
        == f"published {tmp_path}/theirs/2\n"
    )
    second = tmp_path / "theirs/2/model.onnx"
    assert onnx.load(second).graph == onnx.load(first).graph
    assert onnx_file.metadata(second).keys() - onnx_file.metadata(first).keys() == {"image"}
    shown = [
        invoke("models", "show", "theirs", "--version", version, "--models", tmp_path).stdout for version in (1, 2)
    ]
    assert re.search(r"^image +only this size; .*hangtag models fit theirs", shown[0], re.MULTILINE)
    assert re.search(r"^image +28x28 pixels, grey, pad$", shown[1], re.MULTILINE)
    picture = encoded(np.full((40, 20), 200, np.uint8))
    with server(tmp_path, provider="cpu", num_versions=2) as running, Client(running.address) as client:
        with pytest.raises(ClientError, match="hangtag models fit"):
            client.classify(picture, model="theirs", version="1")
        exact = client.classify(np.full((28, 28), 200, np.uint8), model="theirs", version="1")
        assert client.classify(picture, model="theirs").labels == exact.labels  # padding has the edge's colour


def test_a_fit_of_the_served_version_changes_only_on_request(tmp_path: Path) -> None:
    """Results that were measured with the old fit are removed. The example pictures and all other checks are kept."""
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    stated = ("--labels", tmp_path / "labels.txt", "--preprocessing", "fit=stretch scale=255")
    data = ("--data", f"folder:{colour_networks.pictures(tmp_path / 'photos')}")
    imported(tmp_path, in_text(), *stated, *data)
    before = onnx_file.metadata(tmp_path / "models/theirs/1/model.onnx")
    changing = ("models", "fit", "theirs", "--fit", "crop", "--models", tmp_path / "models")
    (tmp_path / "models/both").mkdir()
    (tmp_path / "models/both/route.toml").write_text('cascade = ["theirs", "others"]')
    message = refusal(*changing, unchanged=tmp_path)
    assert "has the fit stretch for pictures of another size, but the new version has the fit crop, so " in message
    assert "or errors, and routes would stop serving (both). Give" in message
    invoke(*changing, "--even-if-different")
    after = onnx_file.metadata(tmp_path / "models/theirs/2/model.onnx")
    assert json.loads(after["image"]) == json.loads(before["image"]) | {"fit": "crop"}
    assert after["preprocessing"] == before["preprocessing"].replace("stretch", "crop")
    assert json.loads(after["gate"]).keys() == {"structure", "batching"}
    assert before.keys() - after.keys() == {"test_accuracy", "data_digest", "tested_on"}


def test_a_fit_that_was_learned_stays(tmp_path: Path) -> None:
    onnx_models.publish_all(tmp_path, "classifier", "two_inputs")
    said = refusal("models", "fit", "classifier", "--fit", "garment", "--models", tmp_path, unchanged=tmp_path)
    assert re.search(r"version 1 already records the fit garment for its pictures. Nothing", said)
    other = refusal("models", "fit", "two_inputs", "--fit", "crop", "--models", tmp_path, unchanged=tmp_path)
    assert "two_inputs does not classify pictures" in other
    shipped = refusal("models", "fit", "lstm", "--fit", "crop", "--models", MODELS)
    assert "fit garment for its pictures, as in its training; to change that, train it again with --fit" in shipped
