"""A finished run -> the next version of a model in the repository, with its provenance inside the file."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from export import onnx_file, parity, repository
from export.errors import ExportError
from serving.server.runtime import VERSION as ONNXRUNTIME_VERSION
from training.data import LABELS, Split
from training.models import MODELS, build
from training.run import Run


@dataclass(frozen=True)
class Published:
    """Where a model went and what was proven about it."""

    folder: Path
    parity: parity.Parity


def export(run: Run, models: Path, test: Split) -> Published:
    """Export the run's best epoch, verify it against PyTorch, and publish it.

    Raises ExportError for a run that is not finished or whose weights do not fit, and ParityError when the file
    differs; nothing is published then.
    """
    config, metrics = run.read_config(), run.read_metrics()
    if "summary" not in metrics:
        raise ExportError(
            f"{run.folder} is not finished ({len(metrics['epochs'])} epochs so far). "
            f"Go on with: hangtag train {config['model']} {_options(config)} --out {run.folder}"
        )
    network = _trained(run)
    proven: list[parity.Parity] = []

    def write(path: Path) -> None:
        metadata = _provenance(config, metrics)
        onnx_file.write(network, metadata, path)
        proven.append(parity.verify(network, path, test))
        # Once more, now with what was proven about the graph; its weights and nodes are the same.
        onnx_file.add_metadata(path, _proof(proven[0]))

    folder = repository.publish(models, run.model, write)
    return Published(folder, proven[0])


def _options(config: dict[str, Any]) -> str:
    """The options of `hangtag train` that this run was begun with; with others it would be another run."""
    options = {key: config[key] for key in ("seed", "limit", "threads", "precision", "device")}
    options |= {"recipe": config["recipe"]["name"], "epochs": config["recipe"]["epochs"]}
    return " ".join(f"--{key} {value}" for key, value in options.items() if value is not None)


def _trained(run: Run) -> nn.Module:
    """The run's network with the weights of its best epoch."""
    if run.model not in MODELS:
        raise ExportError(f"{run.folder} is a run of {run.model!r}; the models known here: {', '.join(MODELS)}")
    network = build(run.model)
    state = run.load("best.pt")
    try:
        network.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the weights in {run.folder / 'best.pt'} do not fit {run.model} ({reason}). They are of another network, "
            f"or of another version of it. Train anew with: hangtag train {run.model} --out FOLDER"
        ) from error
    return network.eval()


def _provenance(config: dict[str, Any], metrics: dict[str, Any]) -> dict[str, str]:
    summary, environment = metrics["summary"], config["environment"]
    return {
        "task": "single_label",
        "labels": json.dumps(LABELS),
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
        "validation_accuracy": f"{summary['validation']['accuracy']:.4f}",
        "training": json.dumps({"config": config, "metrics": metrics}),
    }


def _proof(proven: parity.Parity) -> dict[str, str]:
    return {
        "test_accuracy": f"{proven.test.accuracy:.4f}",
        "parity": json.dumps(
            {
                "against": "pytorch",
                "tolerance": parity.TOLERANCE,
                "max_logit_difference": {str(size): value for size, value in proven.max_difference.items()},
            }
        ),
    }
