"""Reads the data set of a run again, as its config.json describes it."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.training.data import pictures, sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.sources import OwnPictures
from hangtag.training.errors import DataCorruptError, RunMismatchError


def load(
    config: Mapping[str, Any],
    data_dir: Path | None = None,
    progress: pictures.Progress = pictures.no_progress,
) -> Dataset:
    """The data set that a run was trained on, divided and prepared as it was then.

    Args:
        config: The content of config.json.
        data_dir: Where Fashion-MNIST's files, or own pictures, are now; None for where they were.
        progress: Shows how many own pictures were read.

    Raises:
        RunMismatchError: The config does not describe a data set.
        DataNotFoundError: It is no longer there.
        DataCorruptError: It has changed since, or cannot be read.
    """
    name = str(config.get("dataset", "fashion-mnist"))
    kind = sources.kind_of(name)
    if kind is None:
        folder = data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
        return sources.load(name, folder, config.get("limit"))
    if data_dir is not None:
        name = f"{kind}:{data_dir}"
    try:
        image = ImageSpec.of(config.get("image"))
        stored = config["pictures"]
        own = OwnPictures(
            **{field.name: stored[field.name] for field in fields(OwnPictures) if field.name != "size"},
            size=None if stored["size"] is None else (int(stored["size"][0]), int(stored["size"][1])),
        )
    except (ImageSpecError, KeyError, TypeError) as error:
        raise RunMismatchError(f"the run's config.json does not describe its pictures ({error}).") from error
    data = sources.load(name, own=own, image=image, progress=progress)
    if data.digest != config.get("data_digest"):
        raise DataCorruptError(
            f"the pictures of {name} have changed since the run was trained on them: some were added, removed, renamed "
            "or edited. Its test pictures may be among those that it learned from. Restore them, or train again."
        )
    return data
