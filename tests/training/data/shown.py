"""Runs `hangtag data show` on a user's own pictures, and reads the pixels that a network receives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hangtag.training.data import sources
from hangtag.training.data.pictures import OwnPictures
from tests.kit.command import invoke, refusal

SPLITS = ("train", "validation", "test")


def show(source: str, *options: object) -> dict[str, Any]:
    """The JSON that `hangtag data show` prints."""
    document: dict[str, Any] = json.loads(invoke("data", "show", source, *options, "--json").stdout)
    return document


def refused(source: str | Path, *options: object) -> str:
    return refusal("data", "show", source, *options)


def contents(source: str, **own: Any) -> dict[str, Counter[bytes]]:
    """The pixels of each split's images."""
    data = sources.load(source, own=OwnPictures(**own))
    return {split: Counter(image.tobytes() for image in getattr(data, split).images) for split in SPLITS}
