"""The ``hangtag train`` command that a config.json stands for, whichever version of this code wrote it."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hangtag.training.catalog import recipe_for
from hangtag.training.errors import SettingsError
from hangtag.training.runs.identity import teacher_files
from hangtag.training.settings import TrainSettings, flag


def command(config: Mapping[str, Any], out: Path | None = None) -> str:
    """The command that trains a run with this config. Raises KeyError or TypeError for something else than a config.

    Args:
        config: The content of config.json.
        out: The folder of a run to continue on the machine where it began; None for a command for any machine.
    """
    model, recipe, loss = config["model"], config["recipe"], config.get("loss") or {}
    dataset = config.get("dataset", "fashion-mnist")
    pictures = config.get("pictures") or {}
    size, channels = pictures.get("size"), pictures.get("channels")
    values = dict(config) | {
        "recipe": recipe["name"],
        **_changes(model, recipe, dataset),
        "data": None if dataset == "fashion-mnist" else dataset,
        "data_dir": config.get("data_dir") if out else None,
        "size": f"{size[0]}x{size[1]}" if size else None,
        "colour": None if channels is None else channels == 3,
        **{name: pictures.get(name) for name in ("fit", "validation_share", "test_share", "split_seed")},
        "start_from": (config.get("start_from") or {}).get("path"),
        "teachers": tuple(teacher_files(config, "path")),
        "loss": loss.get("name"),
        "beta": f"{loss['beta']:g}" if loss else None,
        "loss_weight": f"{loss['weight']:g}" if loss else None,
        "distances": loss.get("file"),
        "tensorboard": bool(out and config.get("tensorboard")),
        "out": out,
    }
    words = ["hangtag", "train", model]
    for field in fields(TrainSettings)[1:]:
        value = values.get(field.name, field.default)
        if value == field.default and field.name != "seed":
            continue
        if isinstance(value, bool):
            words.append(flag(field.name) if value else "--grey")
        else:
            for item in value if isinstance(value, tuple) else [value]:
                words += [flag(field.name), str(item)]
    return shlex.join(words)


def _changes(model: str, recipe: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The settings that change the catalog's recipe of this name: ``epochs``, and ``changes`` for the others."""
    try:
        known = recipe_for(recipe["name"], model, dataset)
    except SettingsError:  # of an earlier hangtag, or of a network that is not there
        return {"epochs": recipe["epochs"]}
    before, now = (hyperparameters(each) for each in (asdict(known), recipe))
    changed = {name: value for name, value in now.items() if value != before.get(name)}
    epochs = changed.pop("epochs", None)
    return {"epochs": epochs, "changes": tuple(f"{name}={_text(value)}" for name, value in changed.items())}


def hyperparameters(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a recipe in config.json that ``--set`` reaches, by name, its augmentation's among them."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        flat |= value if isinstance(value, dict) else {name: list(value) if isinstance(value, tuple) else value}
    return {name: value for name, value in flat.items() if name not in ("name", "teacher")}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
