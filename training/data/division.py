"""Divides pictures into training, validation and test splits, class by class, by the digests of the pictures."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from hangtag.listing import Picture
from hangtag.printable import counted, named
from hangtag.training.errors import DataCorruptError

LEAST = 3
"""The smallest number of pictures of a class: one picture for each split."""


def divide(
    pictures: Sequence[Picture],
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    *,
    published: bool = False,
) -> tuple[dict[str, list[Picture]], list[str]]:
    """Divide pictures into splits, so that every split has pictures of each class, and no picture is in two splits.

    A picture's split depends on the contents of its file, the seed and the other pictures of its class. The name and
    the folder of the file have no influence. Files with the same pixels count as one picture. A validation or test
    split of the source stays as it is, and only a missing split is taken from the training pictures.

    Args:
        pictures: The pictures that could be read.
        validation_share: The share of each class's pictures for validation, between 0 and 1.
        test_share: The share of each class's pictures for testing.
        seed: The seed for dividing the pictures. Another seed divides the pictures differently.
        published: Whether the pictures are a published set, with a test split that stays whole. A published set may
            hold several copies of a picture. If one copy is in the test split, only the copies there are kept.

    Returns:
        The pictures of the splits train, validation and test, each in the given order; and sentences about pictures
        that were left out.

    Raises:
        DataCorruptError: There is only one class, or a class has too few pictures. The same picture is in two classes
            or in two splits of the source, and the set is not published.
    """
    unique, notes = once(pictures, published=published)
    split_of = _splits(unique, validation_share, test_share, seed)
    splits: dict[str, list[Picture]] = {"train": [], "validation": [], "test": []}
    repeated = []
    chosen = set(unique)
    for picture in pictures:
        split = split_of[picture.content]
        if picture in chosen or (published and (split == "test") == (picture.split == "test")):
            splits[split].append(picture)
        else:
            repeated.append(picture.name)
    return splits, [*_twice(repeated), *notes]


def held_out(pictures: Sequence[Picture], *, published: bool = False) -> tuple[list[Picture], list[str]]:
    """Return the pictures to measure a model on: the source's test split if there is one, otherwise all pictures.

    Each picture is returned only once, except that the test split of a published set stays whole.

    Returns:
        The pictures, in the given order; and sentences about pictures that were left out.

    Raises:
        DataCorruptError: The same picture is in two classes or in two splits of the source, and the set is not
            published.
    """
    tested = [picture for picture in pictures if picture.split == "test"] or list(pictures)
    if published:
        return tested, []
    unique = set(once(pictures)[0])
    return [picture for picture in tested if picture in unique], _twice(
        [picture.name for picture in tested if picture not in unique]
    )


def once(pictures: Sequence[Picture], *, published: bool = False) -> tuple[list[Picture], list[str]]:
    """Return each picture once: in a published set, the copy in the test split if there is one, else the first copy.

    Args:
        pictures: The pictures that could be read.
        published: Whether the same picture may be in several classes and splits, as in a published set.

    Returns:
        The pictures; and, in a published set, a sentence about pictures that are in several classes.

    Raises:
        DataCorruptError: The same picture is in two classes or in two splits of the source, and the set is not
            published.
    """
    by_content: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_content[picture.content].append(picture)
    ambiguous = _names([each for each in by_content.values() if len({one.label for one in each}) > 1])
    leaks = _names([each for each in by_content.values() if len({one.split for one in each}) > 1])
    for names, what, advice in (
        (ambiguous, "class, so one of their labels is wrong", "Delete the wrong copies."),
        (leaks, "split, so the model would be tested on pictures that it learned from", "Keep only one copy of each."),
    ):
        if names and not published:
            count = counted(len(names), "picture is", "pictures are")
            raise DataCorruptError(f"{count} in more than one {what}: {named(names)}. {advice}")
    unique = [min(each, key=lambda one: published and one.split != "test") for each in by_content.values()]
    count = counted(len(ambiguous), "picture is", "pictures are")
    return unique, [f"{count} in more than one class: {named(ambiguous)}."] * bool(ambiguous)


def _twice(names: list[str]) -> list[str]:
    count = counted(len(names), "picture that is", "pictures that are")
    return [f"Left out {count} in the source twice: {named(names)}."] * bool(names)


def _splits(pictures: list[Picture], validation_share: float, test_share: float, seed: int) -> dict[str, str]:
    """Return the split of each picture, keyed by the content of the picture."""
    given = {picture.split for picture in pictures}
    of_label: dict[str, dict[str | None, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        of_label[picture.label][picture.split].append(picture)
    if len(of_label) < 2:
        which = "the only picture is" if len(pictures) == 1 else f"all {len(pictures)} pictures are"
        raise DataCorruptError(
            f"{which} of the class {next(iter(of_label))!r}, and a classifier needs at least two classes. Add a "
            "folder or lines with pictures of another class."
        )
    split_of: dict[str, str] = {}
    too_few = []
    for label, own in sorted(of_label.items()):
        unsplit = sorted(own[None] + own["train"], key=lambda picture: _order(seed, picture.digest))
        count = len(unsplit)
        taken = {
            split: own[split] if split in given else _take(unsplit, round(share * count))
            for split, share in (("validation", validation_share), ("test", test_share))
        } | {"train": unsplit}
        if not all(taken.values()):
            lacking = [split for split in ("train", "validation", "test") if split in given and not own[split]]
            count = sum(map(len, own.values()))
            too_few.append(f"{label} ({count}{''.join(f', none in {split}' for split in lacking)})")
        split_of |= {picture.content: split for split, members in taken.items() for picture in members}
    if too_few:
        raise DataCorruptError(
            f"{len(too_few)} of {len(of_label)} classes would have no picture in train, validation or test: "
            f"{named(too_few)}. A class needs a picture in each split that the source has, and at least {LEAST} "
            "different pictures in all. Add pictures, or leave the class out."
        )
    return split_of


def _take(ordered: list[Picture], count: int) -> list[Picture]:
    """Take ``count`` pictures from the front of the list: at least one picture, and never the last picture."""
    count = min(max(1, count), max(0, len(ordered) - 1))
    taken = ordered[:count]
    del ordered[:count]
    return taken


def _order(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()


def _names(groups: list[list[Picture]]) -> list[str]:
    """Return the names of the pictures in each group. The label is added to a name that does not contain the label."""
    return [
        " and ".join(one.name if one.label in one.name.split("/") else f"{one.name} ({one.label})" for one in group)
        for group in groups
    ]
