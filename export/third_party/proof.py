"""Prove a classifier against the bare network, whose pictures Pillow and NumPy prepare."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hangtag.export import child_process
from hangtag.export.arrays import Array
from hangtag.export.errors import GateError
from hangtag.export.gate.runtime_answers import softmax
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization.samples import spread
from hangtag.export.third_party.plan import Wrapped
from hangtag.export.third_party.preprocessing import LOGITS, PROBABILITIES, Steps
from hangtag.serving.image_spec import ImageSpec, flattened
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.reading import prepared

PICTURES = "pictures"
COMPARED = 64
"""So many of the user's pictures are compared at most."""
_DRAWN = 24


def compare(bare: Path, wrapped: Wrapped, given: Sequence[str], path: Path) -> dict[str, Any]:
    """Compare the classifier's answers with those of the bare network.

    Args:
        bare: The network's file.
        wrapped: The classifier.
        given: Paths of the user's pictures, of which some are taken; without any, some are drawn.
        path: The file's name in error messages.

    Returns:
        Figures for the gate's record, and a summary.

    Raises:
        GateError: the answers differ, or the scores are not what they are stated to be.
        ExportError: a picture cannot be read.
    """
    figures = child_process.run(
        differences,
        path,
        PICTURES,
        file=str(wrapped.file),
        bare=str(bare),
        bare_batch=wrapped.bare_batch or 1,
        steps=asdict(wrapped.steps),
        output=wrapped.output,
        scores=wrapped.scores,
        pictures=spread(given, COMPARED),
    )
    furthest = " and ".join(f"{name} within {value:.1e}" for name, value in sorted(figures["furthest"].items()))
    kind = "drawn pictures" if figures["drawn"] else "of the pictures"
    return figures | {"summary": f"{furthest} of the bare network's after Pillow, for {figures['pictures']} {kind}"}


def differences(
    file: str,
    bare: str,
    bare_batch: int,
    steps: dict[str, Any],
    output: str,
    scores: str,
    pictures: Sequence[str],
) -> dict[str, Any]:
    """In a child process: how far the classifier's answers are from the network's.

    Args:
        file: The classifier.
        bare: The network.
        bare_batch: How many pictures the network takes at a time.
        steps: What the classifier does to pixels, as ``asdict`` has it.
        output: The network's output with the scores.
        scores: One of ``preprocessing.SCORES``.
        pictures: Their paths; without any, some are drawn.

    Raises:
        GateError: the answers differ, or the scores are not what they are stated to be.
    """
    published, network = Runtime(Path(file), provider="cpu"), Runtime(Path(bare), provider="cpu")
    prepare = Steps(**steps)
    spec = prepare.spec
    images = [prepared(Path(path), spec) for path in pictures] or [
        spec.prepare(flattened(picture, spec.channels)) for picture in _drawn(spec)
    ]
    rows, answered = [], []
    for image in images:
        taken = np.repeat(prepare.network_input(image), bare_batch, axis=0)
        rows.append(network.run({prepare.input: taken})[output][:1].astype(np.float64))
        answered.append(published.run({published.signature.inputs[0].name: image[None]}))
    expected = np.concatenate([row.reshape(1, -1) for row in rows])
    actual = {name: np.concatenate([answers[name] for answers in answered]) for name in answered[0]}
    if expected.shape != actual[PROBABILITIES].shape:
        shape = f"[batch, {actual[PROBABILITIES].shape[1]}]"
        raise GateError(PICTURES, f"the network's scores are {list(rows[0].shape)} for a picture, and must be {shape}.")
    _require_scores(expected, scores)
    tolerances = TOLERANCES["fp16" if prepare.datatype == "FP16" else "fp32"]
    wanted = {PROBABILITIES: softmax(expected) if scores == LOGITS else expected}
    limits = {PROBABILITIES: tolerances.probabilities}
    if scores == LOGITS:
        range_of_scores = float(np.ptp(expected))
        wanted[LOGITS] = expected
        limits[LOGITS] = tolerances.absolute * max(1.0, range_of_scores) + tolerances.of_spread * range_of_scores
    furthest = {name: float(np.abs(actual[name] - numbers).max()) for name, numbers in wanted.items()}
    for name, difference in furthest.items():
        if not difference <= limits[name]:
            raise GateError(
                PICTURES,
                f"of {len(images)} pictures the published file's {name} are up to {difference:.2g} from the network's, "
                f"and {limits[name]:.2g} is allowed.",
            )
    return {"pictures": len(images), "drawn": not pictures, "furthest": furthest, "limits": limits}


def _require_scores(scores: Array, kind: str) -> None:
    if not np.isfinite(scores).all():
        raise GateError(PICTURES, "the network's scores are not finite for some pictures: is the preprocessing right?")
    are_probabilities = bool((scores >= -1e-6).all()) and bool((np.abs(scores.sum(axis=1) - 1) < 1e-3).all())
    if kind == PROBABILITIES and not are_probabilities:
        low, high = float(scores.sum(axis=1).min()), float(scores.sum(axis=1).max())
        raise GateError(
            PICTURES,
            f"the network's scores are no probabilities of one label for each picture: they add up to {low:.3g} to "
            f"{high:.3g}, not to 1. Say --scores logits.",
        )
    if kind == LOGITS and are_probabilities and scores.shape[1] > 1:
        raise GateError(
            PICTURES,
            "the network's scores are probabilities already: they add up to 1 for each picture. Say --scores "
            "probabilities.",
        )


def _drawn(spec: ImageSpec) -> Iterator[Image.Image]:
    """Pictures of blots, of several sizes: of the network's, larger, smaller, wide and high; the same at every call."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (2, 3), (3, 2), (1.5, 0.75), (0.5, 0.6), (1, 2)]
    for place in range(_DRAWN):
        high, wide = sizes[place % len(sizes)]
        blots = Image.fromarray(random.integers(0, 256, (4 + place // 6, 5, 3), np.uint8))
        size = (max(1, round(wide * spec.width)), max(1, round(high * spec.height)))
        yield blots.resize(size, Image.Resampling.BICUBIC if place % 2 else Image.Resampling.NEAREST)
