"""Find the version that serves under a model's name, and compare a new one with it.

A new version must take and answer what the old one does, and be right as often.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hangtag.export.errors import GateError, IncomparableError
from hangtag.export.file import quality
from hangtag.export.file.quality import Quality
from hangtag.export.gate.check import CONTRACT, PassedCheck
from hangtag.export.gate.checks import predecessor
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.training.data.division import named


def find(models: Path, name: str, data_digest: str, *, even_if_worse: bool) -> Entry | None:
    """The version that serves under this name; None if there is none, or none that can be compared.

    Args:
        data_digest: of the data set that the new version is tested on.

    Raises:
        IncomparableError: it cannot be compared, and not ``even_if_worse``.
    """
    rival = inventory.serving_version(models, name)
    if rival is None or rival.signature is None:  # a file that cannot be loaded serves nobody
        return None
    recorded = quality.read(rival.metadata)
    if recorded is not None and recorded.data_digest == data_digest:
        return rival
    if even_if_worse:
        return None
    why = "records no test figure" if recorded is None else f"was tested on another data set ({recorded})"
    raise IncomparableError(
        f"{models / name} version {rival.version}, which serves, {why}, so nothing says whether this run is worse. To "
        "publish it all the same, add --even-if-worse. Nothing was published."
    )


def serving(models: Path, name: str, *, measured: bool, even_if_worse: bool) -> Entry | None:
    """The version that serves under this name, which somebody else's file is to replace; None if there is none.

    Args:
        measured: whether the new file's accuracy is measured, on pictures on which this version's can be measured too.

    Raises:
        IncomparableError: it has an accuracy, the new file's is not measured, and not ``even_if_worse``.
    """
    rival = inventory.serving_version(models, name)
    if rival is None or rival.signature is None:
        return None
    recorded = quality.read(rival.metadata)
    if recorded is None or measured or even_if_worse:
        return rival
    raise IncomparableError(
        f"{models / name} version {rival.version}, which serves, has {recorded}, and nothing says whether this file is "
        "worse. Measure both with --data folder:PICTURES, or add --even-if-worse. Nothing was published."
    )


def recorded_on(rival: Entry, data_digest: str) -> Quality | None:
    """What a version records of these pictures; None if it records nothing of them."""
    recorded = quality.read(rival.metadata)
    return recorded if recorded is not None and recorded.data_digest == data_digest else None


def refuse_incomparable(rival: Entry, *, even_if_worse: bool) -> None:
    """Raise IncomparableError for a version that cannot be measured on the new one's pictures, if not asked not to."""
    if not even_if_worse:
        raise IncomparableError(
            f"{rival.name} version {rival.version}, which serves, does not say how a picture becomes its "
            "input, or has other labels, so nothing says whether this file is worse. To publish it all the same, add "
            "--even-if-worse. Nothing was published."
        )


def compare(
    metadata: Mapping[str, str], rival: Entry, test_images: int, remedy: str, *, even_if_worse: bool
) -> PassedCheck:
    """Compare the test figure of a new version, in its metadata, with that of the version that serves.

    Args:
        test_images: how many images the figure is a share of.
        remedy: what publishes a worse version all the same, for the error message.

    Raises:
        GateError: it is worse by more than chance explains, and not ``even_if_worse``.
    """
    own, serving = quality.read(metadata), quality.read(rival.metadata)
    assert own is not None
    assert serving is not None
    trial = f"The run is a trial, {text}. " if (text := inventory.trial(metadata)) else ""
    sentence = f"{trial}To publish it all the same, {remedy}, or name another repository with --models."
    return predecessor.check(own, test_images, serving, rival.version, even_if_worse=even_if_worse, remedy=sentence)


def require_same_contract(
    models: Path,
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    labels: Sequence[str],
    *,
    even_if_different: bool,
) -> None:
    """Check that a new version can take the place of the one that serves: that its callers need not change.

    Args:
        models: the model repository.
        name: the model's name.
        inputs: of the new version, as ``str`` of their specs.
        outputs: likewise.
        labels: of the new version, in their order.
        even_if_different: let a different contract pass.

    Raises:
        GateError: inputs, outputs or labels differ, and not ``even_if_different``; the message has both sides.
    """
    serving = inventory.serving_version(models, name)
    if serving is None or serving.signature is None or even_if_different:
        return
    old = serving.signature
    differences = [
        f"{what} {'; '.join(before) or 'none'}, and the new one {'; '.join(now) or 'none'}"
        for what, before, now in (
            ("inputs", list(map(str, old.inputs)), list(inputs)),
            ("outputs", list(map(str, old.outputs)), list(outputs)),
        )
        if before != now
    ] or _different_labels(old.labels, labels)
    if differences:
        raise GateError(
            CONTRACT,
            f"version {serving.version} of {name}, which serves, has the {differences[0]}: its callers would get other "
            "answers, or errors. Publish it under another name with --name, or all the same with --even-if-different.",
        )


def _different_labels(before: Sequence[str], now: Sequence[str]) -> list[str]:
    if tuple(before) == tuple(now):
        return []
    if len(before) != len(now):
        return [f"{len(before)} labels {named(before)}, and the new one {len(now)}, {named(now)}"]
    place = next(place for place, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
    return [f"label {before[place]!r} in place {place}, and the new one {now[place]!r}"]
