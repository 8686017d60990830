"""Divides pictures into training, validation and test splits, class by class, by the digests of the pictures."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from hangtag.listing import Picture
from hangtag.printable import counted, named
from hangtag.training.errors import DataCorruptError


def divide(
    pictures: Sequence[Picture], validation_share: float = 0.1, test_share: float = 0.1, seed: int = 0
) -> dict[str, list[Picture]]:
    """Divide pictures into splits, so that every split has pictures of each class, and no picture is in two splits.

    A picture's split depends on the contents of its file, the seed and the other pictures of its class. The name and
    the folder of the file do not matter. Files with the same pixels count as one picture. A validation or test split of
    the source stays as it is. A missing split gets the given share (0 to 1) of each class's training pictures.

    Returns the pictures of the splits train, validation and test, each in the given order. Raises DataCorruptError if
    there is only one class, or if a class has too few pictures.
    """
    of_label: dict[str, dict[str | None, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in {each.content: each for each in reversed(pictures)}.values():  # the first of several copies
        of_label[picture.label][picture.split].append(picture)
    counts = {label: sum(map(len, own.values())) for label, own in sorted(of_label.items())}
    if len(counts) < 2:
        ((label, count),) = counts.items()
        which = "the only picture is" if count == 1 else f"all {count} pictures are"
        raise DataCorruptError(
            f"{which} of the class {label!r}, and a classifier needs at least two classes. Add a folder with pictures "
            "of another class, or lines that name such pictures."
        )
    given = {split for own in of_label.values() for split in own}
    splits: dict[str, list[Picture]] = {"train": [], "validation": [], "test": []}
    split_of, too_few = dict[str, str](), list[str]()
    for label, count in counts.items():
        own = of_label[label]
        rest = own.pop(None, []) + own["train"]
        rest.sort(key=lambda picture: hashlib.sha256(f"{seed} {picture.digest}".encode()).digest())
        unsplit = len(rest)
        for split, share in (("validation", validation_share), ("test", test_share)):
            if split not in given:
                taken = min(max(1, round(share * unsplit)), max(0, len(rest) - 1))
                own[split], rest = rest[:taken], rest[taken:]
        own["train"] = rest
        if empty := [split for split in splits if not own[split]]:
            too_few.append(f"{label} ({count}{''.join(f', none in {split}' for split in empty if split in given)})")
        split_of |= {picture.content: split for split in splits for picture in own[split]}
    if too_few:
        raise DataCorruptError(
            f"{len(too_few)} of {len(counts)} classes would have no picture in train, validation or test: "
            f"{named(too_few)}. A class needs a picture in each split that the source has, and at least 3 "
            "different pictures in all. Add pictures, or leave the class out."
        )
    for picture in pictures:
        splits[split_of[picture.content]].append(picture)
    return splits


def distinct(pictures: Sequence[Picture], *, published: bool = False) -> tuple[list[Picture], list[str]]:
    """Remove duplicate pictures. Returns the other pictures, in the given order, and sentences about the duplicates.

    A ``published`` set may hold several copies of a picture, even in several classes. Its test split is not changed,
    and its other splits lose only copies of test pictures.

    Raises:
        DataCorruptError: The same picture is in two classes or in two splits of a set that is not ``published``.
    """
    by_content: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_content[picture.content].append(picture)
    ambiguous = _names(each for each in by_content.values() if len({one.label for one in each}) > 1)
    leaks = _names(each for each in by_content.values() if len({one.split for one in each}) > 1)
    chosen: Collection[Picture]
    if published:
        tested = {picture.content for picture in pictures if picture.split == "test"}
        chosen = [one for one in pictures if one.split == "test" or one.content not in tested]
    elif names := ambiguous or leaks:
        wrong = "class, so one of their labels is wrong", "Delete the wrong copies."
        learned = "split, so the model would be tested on pictures that it learned from", "Keep only one copy of each."
        where, advice = wrong if ambiguous else learned
        count = counted(len(names), "picture is", "pictures are")
        raise DataCorruptError(f"{count} in more than one {where}: {named(names)}. {advice}")
    else:
        chosen = [each[0] for each in by_content.values()]
    kept = set(chosen)
    copies = [picture.name for picture in pictures if picture not in kept]
    left_out = counted(len(copies), "copy of another picture", "copies of other pictures")
    several = counted(len(ambiguous), "picture is", "pictures are")
    return [picture for picture in pictures if picture in kept], [
        *[f"Left out {left_out} in the source: {named(copies)}."] * bool(copies),
        *[f"{several} in more than one class: {named(ambiguous)}."] * bool(ambiguous),
    ]


def _names(groups: Iterable[list[Picture]]) -> list[str]:
    """Return the names of the pictures in each group. The label is added to a name that does not contain it."""
    return [
        " and ".join(one.name if one.label in one.name.split("/") else f"{one.name} ({one.label})" for one in group)
        for group in groups
    ]
