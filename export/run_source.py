"""Read from a finished run what its export needs: the images for the gate, and metadata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hangtag.export.file import kept_answers, onnx_model
from hangtag.export.gate.tolerances import GATE_IMAGES
from hangtag.export.network import ServedNetwork
from hangtag.export.network_arrays import Answers, Pixels
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Classes, Images, Split
from hangtag.training.metrics.class_metrics import MOST_IN_MATRIX
from hangtag.training.runs import run_data as runs_data
from hangtag.training.runs.config import git_revision, portable

_VOC_TEST_IMAGES = 4_952


def gate_images(
    served: ServedNetwork, test: Split, config: Mapping[str, Any], canvases: int
) -> tuple[Pixels, Classes | None, int]:
    """Return the images for the gate, their classes, and the number of images on which the run was tested.

    For a network with several labels per image, the classes are None, and the images are canvases of test garments.
    """
    if served.task == "single_label":
        first = test.first(GATE_IMAGES)
        return first.images, first.classes, len(first)
    tested = outfits.SIZES["test"] if config.get("dataset") in outfits.NAMES else _VOC_TEST_IMAGES
    return canvases_of(test, config, canvases), None, tested


def kept_pictures(
    config: Mapping[str, Any], expected: Answers, images: Pixels, classes: Classes | None
) -> dict[str, str]:
    """Return PyTorch's answers and example pictures as metadata. For a run on the user's own pictures, which may be
    deleted later, the metadata holds only the answers to the example pictures."""
    if classes is None:
        return kept_answers.record_answers(expected)
    chosen = kept_answers.choose_examples(expected["logits"].argmax(axis=1), classes)
    kept = kept_answers.record_examples(images[chosen], classes[chosen])
    first = chosen if sources.kind_of(str(config.get("dataset", fashion_mnist.NAME))) else None
    return kept | kept_answers.record_answers(expected, first)


def canvases_of(test: Split, config: Mapping[str, Any], count: int) -> Images:
    """Return canvases [count, 64, 64] of test garments, composed like the run's data set.

    For a data set that is not in ``outfits.NAMES``, the canvases are those of "outfits". The check only compares the
    outputs of the file and of PyTorch, so any canvases will do.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, count).images


def recorded_accuracy(served: ServedNetwork, summary: Mapping[str, Any]) -> tuple[float, int] | None:
    """Return the test accuracy that the run recorded, and the number of test images; None if it recorded none."""
    test = summary["test"]
    if served.task != "single_label" or "confusion" not in test:
        return None
    return float(test["accuracy"]), int(np.sum(test["confusion"]))


def provenance(served: ServedNetwork, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata about a network's origin and training, read from the run's files. The keys have no prefix."""
    summary, environment = metrics["summary"], config["environment"]
    labels = runs_data.labels(summary)
    return {
        "labels": json.dumps(labels),
        "recipe": config["recipe"]["name"],
        "seed": str(config["seed"]),
        "parameters": str(summary["parameters"]),
        "data_digest": config["data_digest"],
        "git_revision": environment["git_revision"],
        "export_git_revision": git_revision(),
        "trained": environment["created"],
        "versions": json.dumps(
            onnx_model.versions() | {"torch": environment["torch"], "torch_export": torch.__version__}
        ),
        **_figures(summary),
        **_label_distances(served, labels),
        "training": json.dumps({"config": portable(config), "metrics": {**metrics, "summary": _published(summary)}}),
    }


def _published(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's summary without the worst images, and without confusions if there are very many labels."""
    splits = {key: value for key, value in summary.items() if key in ("validation", "test")}
    if len(runs_data.labels(summary)) > MOST_IN_MATRIX:
        splits = {
            key: {name: figure for name, figure in value.items() if name != "confusion"}
            for key, value in splits.items()
        }
    return {key: value for key, value in summary.items() if key != "worst"} | splits


def _label_distances(served: ServedNetwork, labels: Sequence[str]) -> dict[str, str]:
    """Return the distances between a garment classifier's labels. The larger a distance, the worse it is to confuse
    the two labels."""
    garments = fashion_mnist.label_distances(labels)
    if garments is None or served.task != "single_label":
        return {}
    return {
        "label_distances": json.dumps(garments["distances"]),
        "label_distances_from": json.dumps(garments["provenance"]),
    }


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the run's metrics as metadata. The gate later adds a classifier's test accuracy, measured on the file."""
    if "accuracy" in summary["validation"]:
        return {"validation_accuracy": f"{summary['validation']['accuracy']:.4f}"}
    return {
        f"{split}_{figure}": f"{summary[split][figure]:.4f}"
        for split in ("validation", "test")
        for figure in ("o_f1", "exact_match")
    }
