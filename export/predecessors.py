"""Compare a new version with the one that serves: it must take and answer the same, and be right as often."""

import math
from collections.abc import Sequence
from pathlib import Path

from hangtag.export.errors import ExportError, GateError
from hangtag.export.gate.check import CONTRACT, PREDECESSOR, PassedCheck
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.printable import named
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelRepositoryError
from hangtag.serving.signature import TensorSpec

CHANCE = 1.645
"""Standard errors that chance may explain. Of equal models one in twenty would lie beyond, were the two test sets drawn
independently; both answer the same images, so that fewer do. Seeds of one recipe of the study lie up to 0.67 points
apart (studies/accuracy/results.jsonl), which is within the bound too: 0.78 points at 87 % of 10,000 images."""

_ALL_THE_SAME = "To publish it all the same, add --even-if-worse"


def serving(models: Path, name: str) -> Entry | None:
    """The version that serves under this name; None if there is none. A file that cannot be loaded serves nobody.

    Raises:
        ExportError: the model's folder cannot be read.
    """
    try:
        files = model_repository.versions(models, name)
    except ModelRepositoryError as error:
        raise ExportError(str(error)) from error
    rival = inventory.read(files[0]) if files else None
    return None if rival is None or rival.signature is None else rival


def require_same_contract(
    rival: Entry | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    labels: Sequence[str],
    *,
    even_if_different: bool,
) -> None:
    """Check that a new version can take the place of the one that serves: that its callers need not change.

    Args:
        rival: the version that serves.
        inputs: of the new version.
        outputs: likewise.
        labels: of the new version, in their order.
        even_if_different: let a different contract pass.

    Raises:
        GateError: inputs, outputs or labels differ, and not ``even_if_different``; the message has both sides.
    """
    if rival is None or rival.signature is None or even_if_different:
        return
    old = rival.signature
    differences = [
        f"{what} {'; '.join(map(str, before)) or 'none'}, and the new one {'; '.join(map(str, now)) or 'none'}"
        for what, before, now in (("inputs", old.inputs, inputs), ("outputs", old.outputs, outputs))
        if list(map(str, before)) != list(map(str, now))
    ] or _different_labels(old.labels, labels)
    if differences:
        raise GateError(
            CONTRACT,
            f"version {rival.version} of {rival.name}, which serves, has the {differences[0]}: its callers would get "
            "other answers, or errors. Publish it under another name with --name, or all the same with "
            "--even-if-different.",
        )


def recorded(rival: Entry, data_digest: str) -> Quality | None:
    """What a version records of this data set; None if it records nothing of it."""
    own = Quality.of(rival.metadata)
    return own if own is not None and own.data_digest == data_digest else None


def incomparable(rival: Entry, why: str, remedy: str = _ALL_THE_SAME) -> ExportError:
    """The error about a version with which nothing can be compared.

    Args:
        rival: the version that serves.
        why: what it lacks.
        remedy: what to do, a sentence without its end.
    """
    return ExportError(
        f"{rival.path.parents[1]} version {rival.version}, which serves, {why}, so nothing says whether the new one is "
        f"worse. {remedy}. Nothing was published."
    )


def compare(
    own: Quality, images: int, before: Quality, version: int, *, even_if_worse: bool, note: str = ""
) -> PassedCheck:
    """Compare two shares of the same test set by the two-proportion test.

    Args:
        own: the new version's quality.
        images: the size of the test set.
        before: the quality of the version that serves.
        version: that version's number.
        even_if_worse: let a worse file pass.
        note: why a worse file may be so, a sentence for the message.

    Raises:
        GateError: the file is worse by more than chance explains.
    """
    lost = before.share - own.share
    mean = (before.share + own.share) / 2
    chance = CHANCE * math.sqrt(2 * mean * (1 - mean) / images)
    is_worse = lost > chance
    comparison = f"{own}, and version {version}, which serves, has {before.share:.2%}"
    if is_worse and not even_if_worse:
        raise GateError(
            PREDECESSOR,
            f"{comparison}. It is {100 * lost:.2f} points worse, and chance explains {100 * chance:.2f}. {note}"
            f"{_ALL_THE_SAME}, or give it another name with --name.",
        )
    figures = {"version": version, "figure": own.figure, "own": own.share, "serving": before.share}
    return PassedCheck(
        PREDECESSOR,
        f"WORSE, published all the same: {comparison}" if is_worse else comparison,
        figures | {"images": images, "explained_by_chance": chance, "worse": is_worse},
    )


def _different_labels(before: Sequence[str], now: Sequence[str]) -> list[str]:
    if tuple(before) == tuple(now):
        return []
    if len(before) != len(now):
        return [
            f"{len(before)} labels {named(before)}, and the new one {f'the {len(now)} {named(now)}' if now else 'none'}"
        ]
    place = next(place for place, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
    return [f"label {before[place]!r} in place {place}, and the new one {now[place]!r}"]
