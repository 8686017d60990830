"""Compares two runs by their config.json, whichever version of this code wrote it."""

from collections.abc import Mapping
from typing import Any

from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of equal outcome have in common, flat, as {"recipe.epochs": 10}.

    The environment, paths, the log and the number of threads are left out: threads change how sums are rounded, and a
    run that a busy machine slows down may continue with fewer. Teachers count by their content, in any order.
    """
    compared = {key: value for key, value in config.items() if key != "environment"}
    digests = " and ".join(sorted(teacher_files(config, "digest"))) or None
    flat = _DEFAULTS | _flattened(compared) | {"teacher": digests}
    if ":" in str(flat.get("dataset")):  # own pictures count by their digest, wherever their folder is
        flat["dataset"] = str(flat["dataset"]).partition(":")[0]
    return {key: value for key, value in flat.items() if key not in _NOT_COMPARED}


_NOT_COMPARED = ("teachers", "threads", "data_dir", "loss.file", "start_from.path", "tensorboard")


def difference(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> str | None:
    """What distinguishes a requested run from the stored one, in words; None for the same run."""
    there, here = identity(stored), identity(requested)
    keys = [key for key in here | there if there.get(key) != here.get(key)]
    if "model" in keys or "recipe.name" in keys:
        # Then most of the recipe's settings differ too, which adds nothing to the message.
        keys = [key for key in keys if key == "recipe.name" or not key.startswith("recipe.")]
    if not keys:
        return None
    values = (f"{key}: {there.get(key)} there, {here.get(key)} requested" for key in keys)
    return f"another {' and '.join(keys)} ({', '.join(values)})"


def teacher_files(config: Mapping[str, Any], attribute: str) -> list[str]:
    """The "digest" or the "path" of every teacher in a config.json."""
    if isinstance(config.get("teacher"), str):  # the format before a run could have several teachers: path@digest
        path, _, digest = config["teacher"].rpartition("@")
        return [{"path": path, "digest": digest}[attribute]]
    files = config.get("teachers")
    return [str(file.get(attribute)) for file in files if isinstance(file, dict)] if isinstance(files, list) else []


def _flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 10}} as {"recipe.epochs": 10}."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flattened(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


_NO_RECIPE = Recipe("", batch_size=0, epochs=0, learning_rate=0.0)
# Defaults for keys that older config.json files lack.
_DEFAULTS = _flattened(
    RunConfig("", _NO_RECIPE, seed=0, data_digest="", limit=None, precision="", threads=0, device="").as_json()
) | {"recipe.distillation.same_view": False, "recipe.distillation.views": 0}
