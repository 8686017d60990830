"""Collect the metadata that is known before the gate: where a model came from, and what training measured."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hangtag.export.file.onnx_model import versions
from hangtag.export.network import ServedNetwork, SingleLabel
from hangtag.training.labels import distance as label_distance
from hangtag.training.metrics.single_label import MOST_IN_MATRIX
from hangtag.training.runs import data
from hangtag.training.runs.config import git_revision, portable


def collect(served: ServedNetwork, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Describe a finished run by its config.json and metrics.json (keys without their prefix)."""
    summary, environment = metrics["summary"], config["environment"]
    labels = data.labels(summary)
    return {
        "labels": json.dumps(labels),
        "recipe": config["recipe"]["name"],
        "seed": str(config["seed"]),
        "parameters": str(summary["parameters"]),
        "data_digest": config["data_digest"],
        "git_revision": environment["git_revision"],
        "export_git_revision": git_revision(),
        "trained": environment["created"],
        "versions": json.dumps(versions() | {"torch": environment["torch"], "torch_export": torch.__version__}),
        **_figures(summary),
        **_label_distances(served, labels),
        "training": json.dumps({"config": portable(config), "metrics": {**metrics, "summary": _published(summary)}}),
    }


def _published(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's summary without what a file needs no copy of: worst images, and confusions of very many labels."""
    splits = {key: value for key, value in summary.items() if key in ("validation", "test")}
    if len(data.labels(summary)) > MOST_IN_MATRIX:
        splits = {
            key: {name: figure for name, figure in value.items() if name != "confusion"}
            for key, value in splits.items()
        }
    return {key: value for key, value in summary.items() if key != "worst"} | splits


def _label_distances(served: ServedNetwork, labels: Sequence[str]) -> dict[str, str]:
    """How far apart a garment classifier's labels are, so that an answer can say how wrong its runners-up would be."""
    distances = label_distance.default()
    if not isinstance(served, SingleLabel) or distances.labels != tuple(labels):
        return {}
    return {
        "label_distances": json.dumps(distances.matrix.tolist()),
        "label_distances_from": json.dumps(dict(distances.provenance)),
    }


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """What training measured. The gate measures a classifier's test accuracy on the exported file, and adds it then."""
    if "accuracy" in summary["validation"]:
        return {"validation_accuracy": f"{summary['validation']['accuracy']:.4f}"}
    return {
        f"{split}_{figure}": f"{summary[split][figure]:.4f}"
        for split in ("validation", "test")
        for figure in ("o_f1", "exact_match")
    }
