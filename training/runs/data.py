"""What a run learned from: its labels, its images, and the data set, read again as config.json describes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hangtag import listing
from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import fashion_mnist, outfits, sources
from hangtag.training.data.dataset import Dataset, Member
from hangtag.training.data.pictures import OwnPictures
from hangtag.training.errors import DataCorruptError, DataNotFoundError, RunMismatchError


def labels(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a run's labels, by the summary in its metrics.json.

    Earlier releases did not record the labels of single-label networks, which all learned the ten garments.
    """
    recorded = summary.get("labels")
    return tuple(map(str, recorded)) if isinstance(recorded, list) else fashion_mnist.LABELS


def image(config: Mapping[str, Any]) -> ImageSpec:
    """What a run's network sees, by its config.json.

    Raises:
        RunMismatchError: The config does not describe the images.
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
    recorded: Sequence[Member] = (),
) -> Dataset:
    """The data set that a run was trained on, split and prepared as it was for the run.

    Args:
        config: The content of config.json.
        data_dir: The folder of Fashion-MNIST's files or of the user's pictures; None if they have not moved.
        recorded: The run's own pictures, if they are known, to name the pictures that changed.

    Raises:
        RunMismatchError: The config does not describe a data set.
        DataNotFoundError: The data set is no longer there.
        DataCorruptError: The data set has changed since, or cannot be read.
    """
    name = str(config.get("dataset", fashion_mnist.NAME))
    kind = sources.kind_of(name)
    if kind is None:
        folder = data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
        return sources.load(name, folder, config.get("limit"))
    if data_dir is not None:
        name = f"{kind}:{data_dir}"
    elif not (place := listing.place_of(name)).exists():
        # A published file does not name the folders of the machine that wrote it; a run has the whole path.
        where = "there" if place.is_absolute() else "in the current folder, and their place is not recorded"
        raise DataNotFoundError(
            f"the pictures that it was trained on, {name}, are not {where}. Give their folder, or their CSV file, with "
            "--data-dir."
        )
    try:
        own = OwnPictures(**config["pictures"])
    except (KeyError, TypeError) as error:
        raise RunMismatchError(f"the run's config.json does not describe its pictures ({error}).") from error
    data = sources.load(name, own=own, image=image(config))
    if data.digest != config.get("data_digest"):
        raise DataCorruptError(
            f"the pictures of {name} are not the pictures that the run was trained on: "
            f"{changes(config, data.sizes, recorded, data.members)}. Its test pictures may now include pictures that "
            "it learned from. Restore the pictures, or train again."
        )
    return data


def changes(
    config: Mapping[str, Any], sizes: Mapping[str, int], recorded: Sequence[Member] = (), now: Sequence[Member] = ()
) -> str:
    """How the user's pictures differ from the pictures of a run.

    Args:
        config: The run's config.
        sizes: How many pictures each split has now.
        recorded: The pictures that the run learned from and was measured on. If they are not known, as with a published
            file, only numbers can be named.
        now: The pictures that are there now.
    """
    if recorded:
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
        return f"since then {', '.join(changed) or 'files of the same pixels were written again'}"
    what = "some were added, removed, renamed, edited or put into another class since"
    then = config.get("sizes")
    if not isinstance(then, Mapping) or then == sizes:
        return what
    changed = [
        f"{split} {then.get(split)} then, {count} now" for split, count in sizes.items() if then.get(split) != count
    ]
    return f"{what} ({'; '.join(changed)})"
