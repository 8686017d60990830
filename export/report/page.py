"""Write the report as one self-contained HTML page, without scripts and without other files."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from hangtag.export.arrays import Answers, Array, Pixels
from hangtag.export.errors import ExportError
from hangtag.export.exporter import Published
from hangtag.export.foreign.intake import Accepted
from hangtag.export.gate.check import PARITY, PREDECESSOR, STRUCTURE
from hangtag.export.report import pictures
from hangtag.export.repository import inventory

WORST = 8
"""This many images are shown."""
_SINGULAR = {"logits": "logit", "probabilities": "probability"}


@dataclass(frozen=True)
class ShownImage:
    """An image whose answer differs from PyTorch's, or is furthest from it."""

    index: int
    picture: Markup
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
    drawn = {
        "How far answers are from PyTorch's": pictures.error_histogram(differences, limit, _SINGULAR[scores]),
        "Which answers are PyTorch's": pictures.agreement(expected, answered, labels),
    }
    if proof.speed is not None:
        drawn["How long a batch takes"] = pictures.speed(proof.speed.milliseconds)
    _write(
        path,
        folder=published.folder,
        precision=proof.precision,
        trial=inventory.trial(published.metadata),
        worse=bool(proof.figures(PREDECESSOR).get("worse")),
        checks={check.name: check.summary for check in proof.checks},
        speed=str(proof.speed or ""),
        missing=proof.speed.missing if proof.speed else {},
        pictures={title: Markup(picture) for title, picture in drawn.items()},  # noqa: S704  (made here)
        worst=_worst_images(images, expected, answered, differences, labels),
        operators=proof.figures(STRUCTURE)["operators"],
        metadata=_short_metadata(published.metadata),
    )


def write_file_report(accepted: Accepted, path: Path) -> None:
    """Write the report about somebody else's file.

    Raises:
        ExportError: the page cannot be written.
    """
    speed: dict[str, Any] = accepted.findings["speed"]
    milliseconds = {int(size): times for size, times in speed["median_ms"].items()}
    _write(
        path,
        folder=accepted.folder,
        precision=None,
        trial=None,
        worse=False,
        checks=accepted.summaries,
        speed="",
        missing={},
        pictures={"How long a batch takes": Markup(pictures.speed(milliseconds))},  # noqa: S704  (made here)
        worst=[],
        operators=accepted.findings["operators"],
        metadata=_short_metadata(accepted.metadata),
    )


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
    images: Pixels, expected: Array, answered: Array, differences: Array, labels: Sequence[str]
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
        shown.append(ShownImage(index, Markup(pictures.image(images[index])), caption))  # noqa: S704  (made here)
    return shown


def _short_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what is too long to read: the training log, the gate's figures and the reference answers."""
    return {key: value for key, value in metadata.items() if len(value) <= 200}


def _write(path: Path, **content: Any) -> None:
    page = _template().render(**content, written=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"{content['folder']} is published, but its report {path} cannot be written: {error.strerror}."
        ) from error


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hangtag.export.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
