"""Compare a new version with the served version: the contract must match, and the accuracy must not drop."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hangtag.export.errors import ExportError, GateError
from hangtag.export.gate.check import CONTRACT, PREDECESSOR, PassedCheck
from hangtag.export.gate.network_answers import answer, load
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry, Quality
from hangtag.printable import named
from hangtag.serving import model_repository
from hangtag.serving.image_spec import ImageSpec
from hangtag.serving.signature import TensorSpec
from hangtag.training.data.dataset import Split, pixels_digest
from hangtag.training.runs.run import Run

CHANCE = 1.645
"""The largest loss of accuracy, in standard errors, that is attributed to chance. If both versions are equally
accurate, the measured drop exceeds this bound with a probability of 5 % on independent test sets, and more rarely on
the same images. With 10,000 images and an accuracy of 87 %, the bound is 0.78 points. With different seeds, the
accuracy of one of the study's recipes varies by up to 0.67 points (studies/finished/accuracy.jsonl)."""

_ALL_THE_SAME = "To publish it anyway, add --even-if-worse"


def serving(models: Path, name: str) -> Entry | None:
    """Return the version that is served under this name; None if there is none, or its file cannot be loaded.

    Raises:
        ModelRepositoryError: the model's folder cannot be read.
    """
    files = model_repository.versions(models, name)
    rival = inventory.read(files[0]) if files else None
    return None if rival is None or rival.signature is None else rival


def require_same_contract(
    rival: Entry | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    labels: Sequence[str],
    image: ImageSpec | None,
    *,
    even_if_different: bool,
) -> None:
    """Check that a new version can replace the served version, so that callers need not change their code.

    The arguments after ``rival`` describe the new version; ``image`` is None if it has no image description.

    Raises:
        GateError: the inputs, outputs, labels or fit differ, and ``even_if_different`` is False. The message describes
            both versions.
    """
    if rival is None or rival.signature is None or even_if_different:
        return
    old = rival.signature
    differences = [
        f"{what} {'; '.join(map(str, before)) or 'none'}, and the new version has {'; '.join(map(str, now)) or 'none'}"
        for what, before, now in (("inputs", old.inputs, inputs), ("outputs", old.outputs, outputs))
        if list(map(str, before)) != list(map(str, now))
    ] or [*_different_labels(old.labels, labels), *_different_fit(old.image, image)]
    if differences:
        raise GateError(
            CONTRACT,
            f"version {rival.version} of {rival.name}, which is served now, has the {differences[0]}, so callers would "
            f"get other answers, or errors{_routes(rival)}. Give the new one another name, or add --even-if-different.",
        )


def recorded(rival: Entry, data_digest: str) -> Quality | None:
    """Return the test accuracy that a version records for this data set; None if there is no such record."""
    own = Quality.of(rival.metadata)
    return own if own is not None and own.data_digest == data_digest else None


def common_pictures(rival: Entry, test: Split, image: ImageSpec, labels: Sequence[str], runs: Path) -> Split | None:
    """Return the test pictures on which to compare a new version with the served version; None if the served
    version takes other pictures or has other labels.

    The training and validation pictures of the served version's run are left out, if ``runs`` has this run. But all
    test pictures are used if fewer than half would remain, because so few could not show that the new version is worse.
    """
    old = rival.signature
    fit = None if old is None or old.image is None else old.image.fit
    if old is None or (old.picture_shape, fit, old.labels) != (image.shape, image.fit, tuple(labels)):
        return None
    training = rival.json("training")
    config = training.get("config", {}) if isinstance(training, dict) else {}
    learned = {
        each.pixels
        for run in (Run.all(runs) if config.get("pictures") else ())
        if not run.trouble and all(run.config.get(key) == config.get(key) for key in ("data_digest", "pictures"))
        for each in run.members()
        if each.split != "test"
    }
    kept = np.array([pixels_digest(pixels) not in learned for pixels in test.images])
    return Split(test.images[kept], test.classes[kept]) if kept.mean() >= 0.5 else test


def measure(file: Path, pictures: Split, *, batched: bool) -> Quality:
    """Measure a classifier's accuracy. Raises GateError if the file fails on a picture."""
    answers = answer(load(file), pictures.images, 64 if batched else 1, PREDECESSOR)["probabilities"]
    return Quality("test_accuracy", float((answers.argmax(axis=1) == pictures.classes).mean()), "")


def incomparable(rival: Entry, why: str, remedy: str = _ALL_THE_SAME) -> ExportError:
    """Return the error for a new version that cannot be compared with the served version. ``why`` is a clause
    about that version, such as "records no test figure". ``remedy`` is a sentence without its full stop."""
    return ExportError(
        f"{rival.path.parents[1]} version {rival.version}, which is served now, {why}, so nothing shows whether the "
        f"new version is worse. {remedy}. Nothing was published."
    )


def compare(
    own: Quality, images: int, before: Quality, version: int, *, even_if_worse: bool, on: str = "", note: str = ""
) -> PassedCheck:
    """Compare the accuracies of two versions on the same test set, with the two-proportion test.

    Args:
        own: the new version's accuracy.
        images: the size of the test set.
        before: the accuracy of the served version.
        version: that version's number.
        even_if_worse: accept a worse file.
        on: a phrase about the test set, for the message.
        note: a sentence for the message, about a trial run.

    Raises:
        GateError: the new version is significantly worse, and ``even_if_worse`` is False.
    """
    lost = before.share - own.share
    mean = (before.share + own.share) / 2
    chance = CHANCE * math.sqrt(2 * mean * (1 - mean) / images)
    is_worse = lost > chance
    comparison = f"{own}{on}, and version {version}, which is served now, has {before.share:.2%}"
    if is_worse and not even_if_worse:
        raise GateError(
            PREDECESSOR,
            f"{comparison}. The new version is {100 * lost:.2f} points worse, and chance explains only "
            f"{100 * chance:.2f} points. {note}{_ALL_THE_SAME}, or give it another name with --name.",
        )
    if 0 < abs(lost) <= chance:
        comparison += f"; {images:,} test images are too few to tell the two apart"
    figures = {"version": version, "figure": own.figure, "own": own.share, "serving": before.share}
    return PassedCheck(
        PREDECESSOR,
        f"WORSE, but published: {comparison}" if is_worse else comparison,
        figures | {"images": images, "explained_by_chance": chance, "worse": is_worse},
    )


def _routes(rival: Entry) -> str:
    """Name, in a part of a message, the routes that a new signature of this model would break; empty if none."""
    models, routes = rival.path.parents[2], []
    for route in inventory.routes(models):
        try:
            content = model_repository.read_toml(models / route / model_repository.ROUTE_FILE)
            if rival.name in [*content.get("cascade", ()), *content.get("split", ())]:
                routes.append(route)
        except (model_repository.ModelRepositoryError, TypeError):
            continue  # the server cannot load this route anyway
    return f", and routes would stop serving ({named(routes)})" if routes else ""


def _different_fit(before: ImageSpec | None, now: ImageSpec | None) -> list[str]:
    """Describe how the fits differ; empty if they are equal, or if the old version had none. Mean and std need no
    comparison, because they are in the graph."""
    if before is None or (now is not None and now.fit == before.fit):
        return []
    new = "accepts only pictures of its own size" if now is None else f"has the fit {now.fit}"
    return [f"fit {before.fit} for pictures of another size, but the new version {new}"]


def _different_labels(before: Sequence[str], now: Sequence[str]) -> list[str]:
    if tuple(before) == tuple(now):
        return []
    if len(before) != len(now):
        return [
            f"{len(before)} labels {named(before)}, and the new version has "
            f"{f'the {len(now)} labels {named(now)}' if now else 'no labels'}"
        ]
    place = next(place for place, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
    return [f"label {before[place]!r} at index {place}, and the new version has the label {now[place]!r} there"]
