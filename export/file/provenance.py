"""Collect the metadata that is known before the gate: where a model came from, and what training measured."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from hangtag.export.file.versions import versions
from hangtag.export.network.served_network import ServedNetwork, SingleLabel
from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels import distance as label_distance
from hangtag.training.runs.config import portable
from hangtag.training.runs.environment import git_revision


def collect(served: ServedNetwork, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """Describe a finished run by its config.json and metrics.json (keys without their prefix)."""
    summary, environment = metrics["summary"], config["environment"]
    published = {
        key: value for key, value in summary.items() if key != "worst"
    }  # images, which a file needs no list of
    return {
        "labels": json.dumps(summary.get("labels", LABELS)),
        "recipe": config["recipe"]["name"],
        "seed": str(config["seed"]),
        "parameters": str(summary["parameters"]),
        "data_digest": config["data_digest"],
        "git_revision": environment["git_revision"],
        "export_git_revision": git_revision(),
        "trained": environment["created"],
        "versions": json.dumps(versions() | {"torch": environment["torch"], "torch_export": torch.__version__}),
        **_figures(summary),
        **_label_distances(served),
        "training": json.dumps({"config": portable(config), "metrics": {**metrics, "summary": published}}),
    }


def _label_distances(served: ServedNetwork) -> dict[str, str]:
    """How far apart a classifier's labels are, so that an answer can say how wrong its runners-up would be."""
    if not isinstance(served, SingleLabel):
        return {}
    distances = label_distance.default()
    distances.require(LABELS)
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
