"""The ``hangtag train`` command that a config.json stands for, whichever version of this code wrote it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hangtag.training.catalog import NETWORKS
from hangtag.training.runs.identity import teacher_files
from hangtag.training.settings import OPTIONS


def command(config: Mapping[str, Any], out: Path | None = None) -> str:
    """The command that trains a run with this config. Raises KeyError or TypeError for something else than a config.

    Args:
        config: The content of config.json.
        out: The folder of a run to continue on the machine where it began; None for a command for any machine.
    """
    model, recipe, loss = config["model"], config["recipe"], config.get("loss") or {}
    values = dict(config) | {
        "recipe": recipe["name"],
        "epochs": None if recipe["epochs"] == _epochs_in_catalog(model, recipe["name"]) else recipe["epochs"],
        "data": None if config.get("dataset") == "fashion-mnist" else config.get("dataset"),
        "data_dir": config.get("data_dir") if out else None,
        "teachers": teacher_files(config, "path"),
        "loss": loss.get("name"),
        "beta": f"{loss['beta']:g}" if loss else None,
        "loss_weight": f"{loss['weight']:g}" if loss else None,
        "distances": loss.get("file"),
        "tensorboard": bool(out and config.get("tensorboard")),
        "out": out,
    }
    words = ["hangtag", "train", model]
    for name, option in OPTIONS.items():
        value = values.get(name, option.default)
        if value != option.default or name == "seed":
            for item in value if option.repeatable else [value]:
                words += [option.flag] if option.type is bool else [option.flag, str(item)]
    return shlex.join(words)


def _epochs_in_catalog(model: str, recipe: str) -> int | None:
    recipes = NETWORKS[model].recipes if model in NETWORKS else ()
    return next((known.epochs for known in recipes if known.name == recipe), None)
