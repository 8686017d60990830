"""Serves, classifies and load-tests networks that answer with a set of labels, each step by its command.

tests/export exports them, by the command too.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.networks.cnn_rnn import CnnRnn, beam_search
from hangtag.training.networks.inference import normalise
from tests.e2e.processes import ROOT, hangtag, serving
from tests.kit import label_sets
from tests.kit.exported import label_paths

pytestmark = pytest.mark.slow


def test_serve_classify_and_load_test_label_sets(
    garments: Split, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    exported = label_paths(tmp_path_factory)
    network = exported.network
    assert isinstance(network, CnnRnn)
    canvases = label_sets.canvases(garments, 12)
    files = [tmp_path / f"outfit-{number:02}.png" for number in range(len(canvases))]
    for file, canvas in zip(files, canvases, strict=True):
        Image.fromarray(canvas).save(file)

    with serving(exported.models) as server:
        model = ("--model", "cnn_rnn", "--server", server.address)
        answers = [json.loads(line) for line in hangtag("classify", *files, *model, "--json").stdout.splitlines()]
        with torch.inference_mode():
            beam = beam_search(network, normalise(torch.tensor(canvases)))
        for answer, path, path_probability, probabilities in zip(
            answers, *(part.tolist() for part in beam), strict=True
        ):
            expected = [label for label in path if label >= 0]
            assert (answer["model"], answer["task"]) == ("cnn_rnn", "multi_label")
            assert [label["name"] for label in answer["labels"]] == [LABELS[index] for index in expected]
            served = [answer["path_probability"], *(label["probability"] for label in answer["labels"])]
            local = [path_probability, *(probabilities[index] for index in expected)]
            np.testing.assert_allclose(served, local, atol=1e-4)
        assert len({len(answer["labels"]) for answer in answers}) > 1

        text = hangtag("classify", files[0], *model).stdout
        assert text.startswith("outfit-00.png: ")
        assert "for the whole set" in text

        short = ("--min-duration", "0.3", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0.05")
        for images in ((), ("--images", ROOT / "examples/garments")):
            report = tmp_path / "load.json"
            load = ("loadtest", "cnn_rnn", "--server", server.address, *short, "--concurrency", "2", *images)
            hangtag(*load, "--json", report)
            results = json.loads(report.read_text())
            assert results["valid"]
            assert results["runs"][0]["total"]["statuses"] == {"OK": results["runs"][0]["total"]["queries"]}
        assert "4 side by side in a picture of 64x64" in report.read_text()


def test_the_shipped_model_on_the_example_outfits() -> None:
    """The files are named after their labels. Three of four label sets are right, which fits docs/cnn-rnn.md."""
    outfits = sorted((ROOT / "examples/outfits").glob("*.png"))
    with serving(ROOT / "examples/outfits/models") as server:
        output = hangtag("classify", *outfits, "--model", "cnn_rnn", "--server", server.address, "--json").stdout
    right = 0
    for file, line in zip(outfits, output.splitlines(), strict=True):
        names = sorted(
            label["name"].lower().replace("/", "-").replace(" ", "-") for label in json.loads(line)["labels"]
        )
        expected_names = file.stem.partition("-")[2]
        right += len("-".join(names)) == len(expected_names) and all(name in expected_names for name in names)
    assert (right, len(outfits)) == (3, 4)
