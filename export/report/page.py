"""Write the report as one self-contained HTML page, without scripts and without other files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import ExportError
from hangtag.export.exporter import Published
from hangtag.export.gate.check import NOT_RUN, PARITY, PREDECESSOR, STRUCTURE
from hangtag.export.gate.speed import Speed
from hangtag.export.report import pictures
from hangtag.export.repository import inventory
from hangtag.export.third_party.intake import PROVEN, Accepted
from hangtag.page.environment import environment
from hangtag.page.images import png_address
from hangtag.serving.image_spec import ImageSpec

DEFAULT_REPOSITORY = Path("models")
WORST = 8
"""This many images are shown."""
_SINGULAR = {"logits": "logit", "probabilities": "probability"}


@dataclass(frozen=True)
class ShownCheck:
    """A check, as a row of the page."""

    name: str
    outcome: str
    style: str
    summary: str


@dataclass(frozen=True)
class ShownImage:
    """An image whose answer differs from PyTorch's, or is furthest from it."""

    index: int
    source: str
    caption: str


def write_run_report(published: Published, images: Pixels, labels: Sequence[str], path: Path) -> None:
    """Write the report about the export of a run.

    Args:
        images: the images that the proof's answers belong to.
        labels: the meaning of the outputs' last axis.

    Raises:
        ExportError: the page cannot be written.
    """
    proof = published.proof
    scores = "logits" if "logits" in proof.expected else "probabilities"
    differences = np.abs(proof.answered[scores].astype(np.float64) - proof.expected[scores]).max(axis=1)
    limit = float(str(proof.figures(PARITY)["limit"]))
    expected, answered = (_label_sets(answers, published.metadata) for answers in (proof.expected, proof.answered))
    drawn = {"How far answers are from PyTorch's": pictures.error_histogram(differences, limit, _SINGULAR[scores])}
    sentences = {}
    if (disagreement := pictures.disagreement(expected, answered, labels)) is not None:
        drawn["Which answers are not PyTorch's"] = disagreement
    else:
        sentences["Which answers are not PyTorch's"] = (
            f"None: all {len(expected):,} images are answered as PyTorch does."
        )
    if proof.speed is not None:
        drawn["How long a batch takes"] = pictures.speed(proof.speed.milliseconds)
    negated = _shows_garments(published.metadata)
    worse = bool(proof.figures(PREDECESSOR).get("worse"))
    checks = [
        _worse(check.summary) if worse and check.name == PREDECESSOR else _check(check.name, check.summary, check.ran)
        for check in proof.checks
    ]
    if proof.speed is not None:
        checks.append(ShownCheck("speed", "measured", "plain", str(proof.speed)))
        checks += [_check(name, f"not timed: {why}", False) for name, why in proof.speed.missing.items()]
    else:
        checks.append(_check("speed", "not run: by --timing none", False))
    _write(
        path,
        folder=published.folder,
        precision=proof.precision,
        trial=inventory.trial(published.metadata),
        worse=worse,
        checks=checks,
        pictures=drawn,
        sentences=sentences,
        worst=_worst_images(images, expected, answered, differences, labels, negated=negated),
        operators=proof.figures(STRUCTURE)["operators"],
        provenance=_provenance(published.metadata),
        fp32_layers=[],
    )


def write_file_report(accepted: Accepted, path: Path) -> None:
    """Write the report about somebody else's file.

    Raises:
        ExportError: the page cannot be written.
    """
    converted = accepted.converted
    _write(
        path,
        folder=accepted.folder,
        precision=converted.request.precision if converted else None,
        trial=None,
        worse=bool(accepted.findings.get(PREDECESSOR, {}).get("worse")),
        checks=[_finding(accepted, name, summary) for name, summary in accepted.summaries.items()],
        pictures={"How long a batch takes": pictures.speed(Speed.of(accepted.findings["speed"]).milliseconds)},
        sentences={},
        worst=[],
        operators=accepted.findings[STRUCTURE]["operators"],
        provenance=_provenance(accepted.metadata),
        fp32_layers=converted.findings["fp32_layers"] if converted else [],
    )


def report_path(reports: Path, version: Path) -> Path:
    """The page about a version: NAME-VERSION.html, for each repository but the default one in a folder of its own.

    Without that folder an export into another repository would overwrite the page of the same version in the default
    one. It is named after the repository's path, relative to the current folder where that is possible.

    Args:
        version: the version's folder, <models>/<name>/<version>.

    Example:
        >>> report_path(Path("reports/export"), Path("/srv/models/cnn/3"))
        PosixPath('reports/export/srv-models/cnn-3.html')
    """
    repository, here = version.parent.parent.resolve(), Path.cwd()
    page = f"{version.parent.name}-{version.name}.html"
    if repository == DEFAULT_REPOSITORY.resolve():
        return reports / page
    known = repository.relative_to(here) if repository.is_relative_to(here) else repository
    folder = "-".join(part for part in known.parts if part != known.anchor)
    return reports / (folder or repository.name or "root") / page


def _check(name: str, summary: str, ran: bool) -> ShownCheck:
    outcome, style = ("passed", "good") if ran else (NOT_RUN, "plain")
    return ShownCheck(name, outcome, style, summary.removeprefix(f"{NOT_RUN}: "))


def _finding(accepted: Accepted, name: str, summary: str) -> ShownCheck:
    """A check of somebody else's file, or what was measured or noted about it."""
    if name not in PROVEN:
        return ShownCheck(name, "measured" if name in ("size", "speed") else "noted", "plain", summary)
    finding = accepted.findings[name]
    return _worse(summary) if finding.get("worse") else _check(name, summary, finding.get("outcome") != NOT_RUN)


def _worse(summary: str) -> ShownCheck:
    return ShownCheck(PREDECESSOR, "worse", "bad", summary)


def _label_sets(answers: Answers, metadata: Mapping[str, str]) -> Array:
    """Read labels off the outputs as a server does: bool [n, labels], with one True per image for a single label."""
    probabilities = answers["probabilities"]
    labels = np.arange(probabilities.shape[1])
    if "path" in answers:  # indices of labels, -1 after the last
        on_path: Array = (answers["path"][:, :, None] == labels).any(axis=1)
        return on_path
    most_probable: Array = answers["logits"].argmax(axis=1)[:, None] == labels
    if metadata["task"] != "multi_label":
        return most_probable
    reached: Array = probabilities >= float(metadata["threshold"])
    return reached | (most_probable & ~reached.any(axis=1, keepdims=True))


def _worst_images(
    images: Pixels, expected: Array, answered: Array, differences: Array, labels: Sequence[str], *, negated: bool
) -> list[ShownImage]:
    """First those with another answer than PyTorch's, then those with the largest differences."""
    order = np.lexsort((-differences, (expected == answered).all(axis=1)))[:WORST]
    shown = []
    for index in order.tolist():
        right, actual = (
            ", ".join(labels[label] for label in np.flatnonzero(sets[index]).tolist()) or "no label"
            for sets in (expected, answered)
        )
        same = right == actual
        caption = f"{right}, off by {differences[index]:.2g}" if same else f"{right}; the file says {actual}"
        shown.append(ShownImage(index, png_address(images[index], negated=negated), caption))
    return shown


def _shows_garments(metadata: Mapping[str, str]) -> bool:
    """Whether the images are bright garments on black, which are easier to see dark on white."""
    return "image" not in metadata or ImageSpec.parse(metadata["image"]).fit == "garment"


def _provenance(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata in words, without what is too long to read: training log, the gate's figures, reference answers."""
    readable = {key: value for key, value in metadata.items() if len(value) <= 200 and key != "reference_labels"}
    return {key.replace("_", " "): _in_words(value) for key, value in readable.items()}


def _in_words(value: str) -> str:
    """A JSON list or object as its items, separated by commas; any other text as it is."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    if isinstance(parsed, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_in_words(json.dumps(item))}" for key, item in parsed.items())
    return ", ".join(map(str, parsed)) if isinstance(parsed, list) else str(parsed)


def _write(path: Path, *, folder: Path, pictures: Mapping[str, str], **content: Any) -> None:
    page = (
        environment("hangtag.export.report")
        .get_template("page.html.j2")
        .render(
            **content,
            folder=folder,
            model=folder.parent.name,
            version=folder.name,
            pictures={title: Markup(picture) for title, picture in pictures.items()},  # noqa: S704  (our own)
            written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        )
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"{folder} is published, but its report {path} cannot be written: {error.strerror}."
        ) from error
