"""Compares two runs by their config.json, whichever version of this code wrote it.

A run that differs in its number of epochs alone may go on to more of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hangtag.training.errors import RunMismatchError
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.data import changes
from hangtag.training.runs.files import flat


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of equal outcome have in common, flat, as {"recipe.epochs": 10}.

    The environment, paths, the log and the number of threads are left out: threads change how sums are rounded, and a
    run that a busy machine slows down may continue with fewer. Teachers count by their content, in any order.
    """
    files = config.get("teachers")
    digests = sorted(str(file.get("digest")) for file in files) if isinstance(files, list) else []
    values = _DEFAULTS | flat(config) | {"teacher": " and ".join(digests) or None}
    if ":" in str(values.get("dataset")):  # own pictures count by their digest, wherever their folder is
        values["dataset"] = str(values["dataset"]).partition(":")[0]
    return {
        key: value
        for key, value in values.items()
        if key not in _NOT_COMPARED and key.partition(".")[0] not in ("environment", "sizes")
    }


_NOT_COMPARED = ("teachers", "threads", "data_dir", "loss.file", "start_from.path", "tensorboard", "command")


def is_extension(
    folder: Path, stored: Mapping[str, Any], requested: Mapping[str, Any], epochs_done: int, *, has_checkpoint: bool
) -> bool:
    """Whether a requested run is the stored one with another number of epochs, some of which are done.

    Args:
        folder: The stored run's.
        stored: Its config.
        requested: The config of the requested run.
        epochs_done: Of the stored run.
        has_checkpoint: Whether the stored run has the state after its last epoch.

    Raises:
        RunMismatchError: The stored run is another one, or cannot go on to the requested number of epochs.
    """
    there, here = identity(stored), identity(requested)
    keys = [key for key in here | there if there.get(key) != here.get(key)]
    if keys == ["recipe.epochs"] and epochs_done > 0:
        _require_possible(folder, requested["recipe"], epochs_done, has_checkpoint=has_checkpoint)
        return True
    if any(key.startswith("pictures.") for key in keys):  # what else differs of the pictures follows from these
        keys = [key for key in keys if key != "data_digest" and not key.startswith("image.")]
    elif "data_digest" in keys and requested.get("pictures"):
        raise RunMismatchError(
            f"{folder} holds a run on other pictures: {changes(stored, requested['sizes'])}. Choose another --out, or "
            "add --restart to replace it."
        )
    if "model" in keys or "recipe.name" in keys:
        # Then most of the recipe's settings differ too, which adds nothing to the message.
        keys = [key for key in keys if key == "recipe.name" or not key.startswith("recipe.")]
    if keys:
        values = (f"{key}: {there.get(key)} there, {here.get(key)} requested" for key in keys)
        raise RunMismatchError(
            f"{folder} holds a run with another {' and '.join(keys)} ({', '.join(values)}). Choose another --out, or "
            "add --restart to replace it."
        )
    return False


def _require_possible(folder: Path, recipe: Mapping[str, Any], epochs_done: int, *, has_checkpoint: bool) -> None:
    epochs = recipe["epochs"]
    from_the_start = f"To train {epochs} epochs from the start, choose another --out, or add --restart to replace it."
    if epochs < epochs_done:
        raise RunMismatchError(f"{folder} has {epochs_done} epochs already. {from_the_start}")
    if recipe["schedule"] != "constant":
        raise RunMismatchError(
            f"{folder} cannot go on to {epochs} epochs: the recipe {recipe['name']} raises and lowers its learning "
            f"rate over all epochs of a run ({recipe['schedule']}), so a shorter run is no part of a longer one. "
            f"{from_the_start}"
        )
    if not has_checkpoint:
        raise RunMismatchError(
            f"{folder} cannot go on to {epochs} epochs: it has no checkpoint.pt, which holds the last epoch's weights "
            f"and the optimizer's state. It was deleted, or an earlier hangtag trained the run. {from_the_start}"
        )


_NO_RECIPE = Recipe("", batch_size=0, epochs=0, learning_rate=0.0)
# Defaults for keys that older config.json files lack.
_DEFAULTS = flat(
    RunConfig("", _NO_RECIPE, seed=0, data_digest="", limit=None, precision="", threads=0, device="").as_json()
) | {"recipe.distillation.views": 0}
