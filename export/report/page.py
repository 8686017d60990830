"""The page itself: self-contained HTML, without a script and without another file."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from hangtag.export.errors import ExportError
from hangtag.export.exporter import Published
from hangtag.export.foreign.intake import Accepted
from hangtag.export.gate.runtime_answers import Answers, Array, Pixels
from hangtag.export.report import pictures

WORST = 8
_SINGULAR = {"logits": "logit", "probabilities": "probability"}


@dataclass(frozen=True)
class Shown:
    """An image that the file answers otherwise, or furthest from PyTorch: its place, picture, and both answers."""

    place: int
    picture: Markup
    said: str


def of_run(published: Published, images: Pixels, labels: Sequence[str], path: Path) -> None:
    """Write the page about a run's export. images: those of the exam, uint8 [n, height, width]."""
    proof = published.proof
    scores = "logits" if "logits" in proof.expected else "probabilities"
    ours, theirs = proof.answered[scores], proof.expected[scores]
    differences = np.abs(ours.astype(np.float64) - theirs).max(axis=1)
    limit = float(str(proof.figures("parity")["limit"]))
    expected, got = (_given(answers, published.metadata) for answers in (proof.expected, proof.answered))
    drawn = {
        "How far answers are from PyTorch's": pictures.error_histogram(differences, limit, _SINGULAR[scores]),
        "Which answers are PyTorch's": pictures.agreement(expected, got, labels),
    }
    if proof.speed is not None:
        drawn["How long a batch takes"] = pictures.speed(proof.speed.milliseconds)
    _write(
        path,
        folder=published.folder,
        precision=proof.precision,
        checks={check.name: check.said for check in proof.checks},
        speed=str(proof.speed or ""),
        missing=proof.speed.missing if proof.speed else {},
        pictures={title: Markup(picture) for title, picture in drawn.items()},  # noqa: S704  (made here)
        worst=_worst(images, expected, got, differences, labels),
        operators=proof.figures("structure")["operators"],
        metadata=_told(published.metadata),
    )


def of_file(accepted: Accepted, path: Path) -> None:
    """Write the page about somebody else's file."""
    speed: dict[str, Any] = accepted.found["speed"]
    milliseconds = {int(size): times for size, times in speed["median_ms"].items()}
    _write(
        path,
        folder=accepted.folder,
        precision=None,
        checks=accepted.said,
        speed="",
        missing={},
        pictures={"How long a batch takes": Markup(pictures.speed(milliseconds))},  # noqa: S704  (made here)
        worst=[],
        operators=accepted.found["operators"],
        metadata=_told(accepted.metadata),
    )


def _given(answers: Answers, metadata: Mapping[str, str]) -> Array:
    """Which labels are answered with, bool [n, labels]: one, or as a server reads sets of them off the outputs."""
    probabilities = answers["probabilities"]
    labels = np.arange(probabilities.shape[1])
    given: Array
    if "path" in answers:  # places of labels, -1 after the last
        given = (answers["path"][:, :, None] == labels).any(axis=1)
    else:
        given = answers["logits"].argmax(axis=1)[:, None] == labels
        if metadata["task"] == "multi_label":
            reached = probabilities >= float(metadata["threshold"])
            given = reached | (given & ~reached.any(axis=1, keepdims=True))
    return given


def _worst(images: Pixels, expected: Array, got: Array, differences: Array, labels: Sequence[str]) -> list[Shown]:
    """First those with another answer, then those furthest off."""
    order = np.lexsort((-differences, (expected == got).all(axis=1)))[:WORST]
    shown = []
    for place in order.tolist():
        was, now = (
            ", ".join(labels[label] for label in np.flatnonzero(answer[place]).tolist()) or "no label"
            for answer in (expected, got)
        )
        said = f"{was}, off by {differences[place]:.2g}" if was == now else f"{was}; the file says {now}"
        shown.append(Shown(place, Markup(pictures.image(images[place])), said))  # noqa: S704  (made here)
    return shown


def _told(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is short enough to be read: not the training log, the gate's figures and the kept answers."""
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
