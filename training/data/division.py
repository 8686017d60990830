"""Divides pictures into training, validation and test splits, class by class, by the digests of their contents."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hangtag.training.data.listing import Listed
from hangtag.training.errors import DataCorruptError

LEAST = 3
"""Pictures of a class: at least one for each split."""
_NAMED = 5


@dataclass(frozen=True)
class Opened:
    """A picture that could be read.

    Attributes:
        listed: Where it is, its label, and its split if it has one.
        digest: SHA-256 of the file.
        size: Height and width, upright, in pixels.
        grey: Whether the file has no colours.
    """

    listed: Listed
    digest: str
    size: tuple[int, int]
    grey: bool


@dataclass(frozen=True)
class Division:
    """How pictures are divided.

    Attributes:
        labels: The names of the classes, sorted.
        splits: Indices into the pictures for train, validation and test, each in the order of the pictures.
        repeated: Pictures that were left out, since another one of the same class has the same content.
    """

    labels: tuple[str, ...]
    splits: dict[str, list[int]]
    repeated: list[int] = field(default_factory=list)


def divide(
    pictures: Sequence[Opened], validation_share: float = 0.1, test_share: float = 0.1, seed: int = 0
) -> Division:
    """Divide pictures so that each class has its share of every split, and no content is in two.

    A picture's split depends on its content, the seed and the other pictures of its class, not on its name or place.
    Where the source has a test split, only a validation split is taken from its training pictures; where it has both,
    they stay.

    Args:
        pictures: Those that could be read.
        validation_share: Of each class's pictures, between 0 and 1.
        test_share: Likewise.
        seed: Another one divides them otherwise.

    Raises:
        DataCorruptError: There is one class alone, a class has too few pictures, the same content is in two classes, or
            the source has the same content in two splits.
    """
    by_digest: dict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        by_digest[picture.digest].append(index)
    names, splits_given = zip(*((each.listed.label, each.listed.split) for each in pictures), strict=True)
    _require_one("class, so that one of their labels is wrong", names, pictures, by_digest, "Delete the wrong ones.")
    leak = "split, so that the test would be of what was learned"
    _require_one(leak, splits_given, pictures, by_digest, "Delete one of each.")
    kept = sorted(indices[0] for indices in by_digest.values())
    labels = tuple(sorted({picture.listed.label for picture in pictures}))
    if len(labels) < 2:
        raise DataCorruptError(
            f"all {len(pictures)} pictures are of the class {labels[0]!r}, and a classifier needs at least two. Add a "
            "folder, or lines, of another class."
        )
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    given = {pictures[index].listed.split for index in kept}
    of_label: dict[str, dict[str | None, list[int]]] = {label: defaultdict(list) for label in labels}
    for index in kept:
        of_label[pictures[index].listed.label][pictures[index].listed.split].append(index)
    too_few = []
    for label, own in of_label.items():
        count = len(own[None]) + len(own["train"])
        unsplit = sorted(own[None] + own["train"], key=lambda index: _order(seed, pictures[index].digest))
        taken = {
            split: own[split] if split in given else _take(unsplit, round(share * count))
            for split, share in (("validation", validation_share), ("test", test_share))
        } | {"train": unsplit}
        if not all(taken.values()):
            too_few.append(f"{label} ({sum(map(len, own.values()))})")
        for split, indices in taken.items():
            splits[split] += indices
    if too_few:
        raise DataCorruptError(
            f"{len(too_few)} of {len(labels)} classes have too few pictures to have one in each of train, validation "
            f"and test: {named(too_few)}. A class needs at least {LEAST} different ones. Add pictures, or leave the "
            "class out."
        )
    repeated = sorted(index for indices in by_digest.values() for index in indices[1:])
    return Division(labels, {split: sorted(indices) for split, indices in splits.items()}, repeated)


def _take(ordered: list[int], count: int) -> list[int]:
    """Remove pictures from the front of the list: at least one, and never the last."""
    count = min(max(1, count), max(0, len(ordered) - 1))
    taken = ordered[:count]
    del ordered[:count]
    return taken


def _order(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()


def _require_one(
    what: str, values: Sequence[str | None], pictures: Sequence[Opened], by_digest: dict[str, list[int]], advice: str
) -> None:
    """Raise DataCorruptError where the same content has several labels, or is in several splits."""
    several = [each for each in by_digest.values() if len({values[index] for index in each}) > 1]
    if several:
        pairs = [" and ".join(pictures[index].listed.name for index in each) for each in several]
        raise DataCorruptError(f"{len(several)} pictures are in more than one {what}: {named(pairs)}. {advice}")


def named(items: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(items) - _NAMED
    return "; ".join(items[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
