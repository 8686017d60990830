"""What a run learned from: its labels, its images, and the data set itself, read again as config.json describes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import DataCorruptError, DataNotFoundError, RunMismatchError


def labels(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a run's labels, by the summary in its metrics.json.

    Earlier releases did not record those of networks with a single label, which all learned the ten garments.
    """
    recorded = summary.get("labels")
    return tuple(map(str, recorded)) if isinstance(recorded, list) else fashion_mnist.LABELS


def image(config: Mapping[str, Any]) -> ImageSpec:
    """What a run's network sees, by its config.json.

    Raises:
        RunMismatchError: The config does not describe it.
    """
    name = str(config.get("dataset", fashion_mnist.NAME))
    if sources.kind_of(name) is None:
        if name == fashion_mnist.NAME:
            return fashion_mnist.IMAGE
        return outfits.IMAGE if name in outfits.NAMES else sources.VOC_IMAGE
    try:
        return ImageSpec.of(config.get("image"))
    except ImageSpecError as error:
        raise RunMismatchError(f"the run's config.json does not describe its images ({error}).") from error


def load(
    config: Mapping[str, Any],
    data_dir: Path | None = None,
) -> Dataset:
    """The data set that a run was trained on, divided and prepared as it was then.

    Args:
        config: The content of config.json.
        data_dir: Where Fashion-MNIST's files, or own pictures, are now; None for where they were.

    Raises:
        RunMismatchError: The config does not describe a data set.
        DataNotFoundError: It is no longer there.
        DataCorruptError: It has changed since, or cannot be read.
    """
    name = str(config.get("dataset", fashion_mnist.NAME))
    kind = sources.kind_of(name)
    if kind is None:
        folder = data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
        return sources.load(name, folder, config.get("limit"))
    if data_dir is not None:
        name = f"{kind}:{data_dir}"
    elif not (place := Path(name.partition(":")[2])).exists():
        # A published file has no folders of the machine that made it; a run has the whole path.
        where = "there" if place.is_absolute() else "in the current folder, and their place is not recorded"
        raise DataNotFoundError(
            f"the pictures that it was trained on, {name}, are not {where}. Name it with --data-dir: their folder, or "
            "their CSV file."
        )
    try:
        own = OwnPictures(**config["pictures"])
    except (KeyError, TypeError) as error:
        raise RunMismatchError(f"the run's config.json does not describe its pictures ({error}).") from error
    data = sources.load(name, own=own, image=image(config))
    if data.digest != config.get("data_digest"):
        raise DataCorruptError(
            f"the pictures of {name} are not those that the run was trained on: {changes(config, data.sizes)}. Its "
            "test pictures may be among those that it learned from. Restore them, or train again."
        )
    return data


def changes(config: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """What is known about own pictures that are no longer those of a run, by its config and by their numbers now."""
    what = "some were added, removed, renamed, edited or put into another class since"
    before = config.get("sizes")
    if not isinstance(before, Mapping) or before == sizes:
        return what
    changed = [
        f"{split} {before.get(split)} then, {now} now" for split, now in sizes.items() if before.get(split) != now
    ]
    return f"{what} ({'; '.join(changed)})"
