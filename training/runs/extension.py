"""Decides whether a run that was trained for some epochs can go on to more of them, and says why where it cannot."""

from collections.abc import Mapping
from typing import Any

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.identity import identity


def is_extension(stored: Mapping[str, Any], requested: Mapping[str, Any], epochs_done: int) -> bool:
    """Whether a requested run is the stored one but for its number of epochs, some of which are done."""
    there, here = identity(stored), identity(requested)
    differing = [key for key in here | there if there.get(key) != here.get(key)]
    return differing == ["recipe.epochs"] and epochs_done > 0


def require_possible(folder: object, requested: Mapping[str, Any], epochs_done: int, *, has_checkpoint: bool) -> None:
    """Raise RunMismatchError, with the reason, unless the run in the folder can go on to the requested epochs."""
    recipe = requested["recipe"]
    anew = f"To train {recipe['epochs']} epochs from the start, choose another --out, or add --restart to replace it."
    if recipe["epochs"] < epochs_done:
        raise RunMismatchError(f"{folder} has {epochs_done} epochs already. {anew}")
    if recipe["schedule"] != "constant":
        raise RunMismatchError(
            f"{folder} cannot go on to {recipe['epochs']} epochs: the recipe {recipe['name']} raises and lowers its "
            f"learning rate over all epochs of a run ({recipe['schedule']}), so a shorter run is no part of a longer "
            f"one. {anew}"
        )
    if not has_checkpoint:
        raise RunMismatchError(
            f"{folder} cannot go on to {recipe['epochs']} epochs: it has no checkpoint.pt, which holds the last "
            f"epoch's weights and the optimizer's state. It was deleted, or an earlier hangtag trained the run. {anew}"
        )
