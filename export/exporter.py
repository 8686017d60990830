"""A finished run -> the next version of a model in the repository, with its provenance inside the file."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from export import onnx_file, parity, path_parity, repository, threshold_parity, trained
from export.served import Classifier, LabelPath, LabelThreshold, Served
from serving.server.runtime import VERSION as ONNXRUNTIME_VERSION
from training import label_distance
from training.data import LABELS, Split
from training.multi_label import outfits
from training.multi_label.data import Canvases
from training.run import Run

CANVASES = 1_000
"""How many canvases a network of several labels is compared on."""

Proof = parity.Parity | path_parity.PathParity | threshold_parity.ThresholdParity


@dataclass(frozen=True)
class Published:
    """Where a model went and what was proven about it."""

    folder: Path
    parity: Proof


def export(run: Run, models: Path, test: Split) -> Published:
    """Export the run's best epoch, verify it against PyTorch, and publish it.

    Raises RunMismatchError for a run that is not finished, ExportError for one whose weights do not fit, and
    ParityError when the file differs; nothing is published then.
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = trained.load(run)
    proven: list[Proof] = []

    def write(path: Path) -> None:
        onnx_file.write(served, served.metadata | _distances(served) | _provenance(config, metrics), path)
        proven.append(_verify(served, path, test, config))
        # Once more, now with what was proven about the graph; its weights and nodes are the same.
        onnx_file.add_metadata(path, proven[0].metadata)

    folder = repository.publish(models, run.model, write)
    return Published(folder, proven[0])


def _verify(served: Served, path: Path, test: Split, config: dict[str, Any]) -> Proof:
    match served:
        case Classifier():
            return parity.verify(served, path, test)
        case LabelPath():
            return path_parity.verify(served, path, _canvases(test, config))
        case LabelThreshold():
            return threshold_parity.verify(served, path, _canvases(test, config))
    raise AssertionError(f"nothing says how to verify a {type(served).__name__}")


def _canvases(test: Split, config: dict[str, Any]) -> Canvases:
    """Canvases [CANVASES, 64, 64] of real test garments: the first of the run's own test split where it is of outfits,
    else of outfits all the same, for the arithmetic is what is compared."""
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.DATASETS else "outfits", "test", test, CANVASES).images


def _distances(served: Served) -> dict[str, str]:
    """How far apart a classifier's labels are, so that an answer can say how bad its runners-up would be."""
    if not isinstance(served, Classifier):
        return {}
    distances = label_distance.default()
    distances.require(LABELS)
    return {
        "label_distances": json.dumps(distances.matrix.tolist()),
        "label_distances_from": json.dumps(dict(distances.provenance)),
    }


def _provenance(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, str]:
    summary, environment = metrics["summary"], config["environment"]
    return {
        "labels": json.dumps(summary.get("labels", LABELS)),
        "recipe": config["recipe"]["name"],
        "seed": str(config["seed"]),
        "parameters": str(summary["parameters"]),
        "data_digest": config["data_digest"],
        "git_revision": environment["git_revision"],
        "trained": environment["created"],
        "versions": json.dumps(
            {
                "python": platform.python_version(),
                "torch": environment["torch"],
                "torch_export": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": ONNXRUNTIME_VERSION,
            }
        ),
        **_figures(summary),
        "training": json.dumps({"config": config | {"data_dir": None}, "metrics": metrics}),
    }


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    """What training measured. A classifier's test accuracy is measured on the exported file itself, and added then."""
    if "accuracy" in summary["validation"]:
        return {"validation_accuracy": f"{summary['validation']['accuracy']:.4f}"}
    return {
        f"{split}_{figure}": f"{summary[split][figure]:.4f}"
        for split in ("validation", "test")
        for figure in ("o_f1", "exact_match")
    }
