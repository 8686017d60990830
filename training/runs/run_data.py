"""Reads a run's training inputs: the labels, the description of the images, and the data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hangtag import listing
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.data.dataset import Dataset, Member
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import DataCorruptError, DataNotFoundError, RunMismatchError


def labels(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a run's labels, from the summary in metrics.json. Earlier releases recorded no labels, and
    trained on Fashion-MNIST."""
    recorded = summary.get("labels")
    return tuple(map(str, recorded)) if isinstance(recorded, list) else fashion_mnist.LABELS


def image(config: Mapping[str, Any]) -> ImageSpec:
    """Return the description of the images that a run's network sees, from config.json. Raises RunMismatchError if the
    config does not describe the images."""
    name = str(config.get("dataset", fashion_mnist.NAME))
    if sources.kind_of(name) is None:
        return sources.IMAGES[name]
    try:
        return ImageSpec.of(config.get("image"))
    except ImageSpecError as error:
        raise RunMismatchError(f"the run's config.json does not describe its images ({error}).") from error


def load(config: Mapping[str, Any], data_dir: Path | None = None, recorded: Sequence[Member] = ()) -> Dataset:
    """Read the data set that a run was trained on, split and prepared as the run's ``config.json`` describes.

    ``data_dir`` is the data set's folder, if it has moved since the run. ``recorded`` lists the user's own pictures at
    training time, so that an error can name the pictures that have changed. Raises RunMismatchError if the config
    describes no data set, DataNotFoundError if it is missing, and DataCorruptError if it has changed or is unreadable.
    """
    name = str(config.get("dataset", fashion_mnist.NAME))
    kind = sources.kind_of(name)
    if kind is None:
        folder = data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
        return sources.load(name, folder, config.get("limit"))
    if data_dir is not None:
        name = f"{kind}:{data_dir}"
    elif not (place := listing.place_of(name)).exists():
        # A run records the absolute path, but a published file omits the folders of the machine that wrote it.
        where = "there" if place.is_absolute() else "in the current folder, and no absolute path is recorded"
        raise DataNotFoundError(
            f"the training pictures, {name}, are not {where}. Give their folder, or their CSV file, with --data-dir."
        )
    try:
        own = OwnPictures(**config["pictures"])
    except (KeyError, TypeError) as error:
        raise RunMismatchError(f"the run's config.json does not describe its pictures ({error}).") from error
    data = sources.load(name, own=own, image=image(config))
    if data.digest != config.get("data_digest"):
        raise DataCorruptError(
            f"the pictures of {name} are not the pictures that the run was trained on: "
            f"{changes(recorded, data.members)}. The test pictures may now include pictures that the run learned from. "
            "Restore the pictures, or train again."
        )
    return data


def changes(recorded: Sequence[Member], now: Sequence[Member]) -> str:
    """Describe how the user's pictures differ from a run's record of them; in general terms if there is no record."""
    if not recorded:
        return "since then pictures were added, removed, renamed, edited or put into another class"
    before, after = ({each.path: each for each in members} for members in (recorded, now))
    same = [path for path in before if path in after]
    lists = {
        "added": [path for path in after if path not in before],
        "removed": [path for path in before if path not in after],
        "put into another class": [path for path in same if before[path].label != after[path].label],
        "edited": [path for path in same if before[path].pixels != after[path].pixels],
        "moved to another split": [path for path in same if before[path].split != after[path].split],
    }
    changed = [f"{len(paths):,} {what} ({named(paths)})" for what, paths in lists.items() if paths]
    return f"since then {', '.join(changed) or 'files were written again with the same pixels'}"
