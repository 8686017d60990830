"""The part of docs/models.md about models of several labels: from a file that the exporter published, and by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hangtag.export import exporter
from hangtag.training.data.fashion_mnist import LABELS, Split
from studies.shipped import report as model_report
from studies.shipped.label_sets_part import section
from studies.shipped.models import ShippedModel, read_all
from tests.kit import label_sets

pytestmark = pytest.mark.slow

FIGURES = {"exact_match": 0.25, "o_f1": 0.75, "c_f1": 0.7, "labels_per_image": 2.5}


@pytest.fixture(scope="module")
def sigmoids(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> ShippedModel:
    folder = tmp_path_factory.mktemp("sigmoids")
    run = label_sets.finished(folder / "run", "sigmoids", label_sets.decisive_scores("sigmoids", garments))
    metrics = run.read_metrics()
    metrics["summary"]["test"] |= FIGURES
    run.write_metrics(metrics)
    exporter.export(run, folder / "models", garments, canvases=64)
    (shipped,) = read_all(folder / "models", "multi_label")
    return shipped


@pytest.fixture(scope="module")
def cnn_rnn(sigmoids: ShippedModel) -> ShippedModel:
    """The same file with the metadata of a model that answers with paths."""
    proof = {"tolerance": 1e-4, "images": 1000, "ties": 2, "max_probability_difference": {"1": 1e-6, "64": 2e-6}}
    metadata = {key: value for key, value in sigmoids.metadata.items() if key != "threshold"}
    metadata |= {"parity": json.dumps(proof), "beam_width": "2", "max_labels": "5"}
    return replace(sigmoids, name="cnn_rnn", metadata=metadata)


def test_the_page_shows_a_published_files_figures_rule_and_proof(sigmoids: ShippedModel) -> None:
    text = "\n".join(section([sigmoids]))
    assert "| 25.00% | 75.00% | 70.00% | 2.50 | a threshold of 0.200 |" in text
    assert f"- Labels: {', '.join(LABELS)}" in text
    assert "- Reproduce: `hangtag train sigmoids --recipe tiny --epochs 2 --seed 3 " in text
    assert (
        "of PyTorch at batch 1, 2, 3, 7, 16, 64 (allowed 0.0001), and the same label set for each of 64 canvases"
        in text
    )


def test_the_page_shows_the_ties_of_a_model_that_decides_by_paths(cnn_rnn: ShippedModel) -> None:
    text = "\n".join(section([cnn_rnn]))
    assert "| the likeliest path, beam of 2, at most 5 labels |" in text
    assert "Probabilities within 2.0e-06 of PyTorch at batch 1, 64" in text
    assert "the same path for each of 1,000 canvases but 2 whose paths are level" in text


def test_the_page_has_them_after_the_models_of_one_label(sigmoids: ShippedModel) -> None:
    single = read_all(Path(__file__).parents[3] / "models")
    text = model_report.page(single, [], [sigmoids])
    assert text.startswith(model_report.page(single, [], []))
    assert "## Several labels" in text
    assert "## Several labels" not in model_report.page(single, [], [])
