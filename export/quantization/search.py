"""Find out which layers must stay in FP32, so that as many samples as asked are answered alike.

Each layer is converted alone, and its error measured: how far that moves the outputs. The layers with the largest
errors stay in FP32, as few of them as suffice, which bisection finds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import onnx

from hangtag.export.errors import ExportError
from hangtag.export.quantization.agreement import Agreement
from hangtag.export.quantization.converters import Converter

Progress = Callable[[str], None]
Distance = Callable[[onnx.ModelProto], float]


@dataclass(frozen=True)
class KeptLayer:
    """A layer that stays in FP32, and by how much its conversion alone would move the outputs, as a share of their
    spread; None where the time did not suffice to measure it, or the outputs were not finite."""

    name: str
    operator: str
    error: float | None


@dataclass(frozen=True)
class Found:
    """The converted file, and the layers that stay in FP32 in it, the most sensitive first."""

    model: onnx.ModelProto
    kept: Sequence[KeptLayer]
    agreement: Agreement


def search(
    converter: Converter,
    agreement: Callable[[onnx.ModelProto], Agreement],
    distance: Distance,
    least: float,
    seconds: float,
    progress: Progress,
) -> Found:
    """Keep as few layers in FP32 as suffice.

    Args:
        agreement: of a converted file's answers with the original's, on all samples by which layers are chosen.
        distance: how far they are apart, as ``Comparison.distance`` says, on a few of them.
        least: the share of samples that must be answered alike. The search aims at half as many others, because the
            samples that prove the file are not those that it sees; where that cannot be had, at as many.
        seconds: for measuring layers; those that are not reached count as the most sensitive.
        progress: gets a line about each step.

    Raises:
        ExportError: the agreement holds only where no layer is converted.
    """
    wanted = 1 - (1 - least) / 2
    attempts: dict[int, Found] = {}
    ranked: list[KeptLayer] = []

    def suffices(count: int) -> bool:
        model = converter.convert({layer.name for layer in ranked[:count]})
        attempts[count] = Found(model, ranked[:count], agreement(model))
        progress(
            f"{len(converter.layers) - count} of {len(converter.layers)} layers converted: {attempts[count].agreement}"
        )
        return attempts[count].agreement.share >= wanted

    if suffices(0):
        return attempts[0]
    ranked += _rank(converter, distance, seconds, progress)
    few, enough = 0, len(ranked)  # `few` do not suffice; with all in FP32 nothing is converted
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if suffices(middle) else (middle, enough)
    for bound in (wanted, least):
        for count in sorted(attempts):
            if attempts[count].agreement.share >= bound:
                return attempts[count]
    best = max((attempt.agreement for attempt in attempts.values()), key=lambda reached: reached.share)
    raise ExportError(
        f"{least:.1%} of the samples must be answered alike, and no choice of layers reaches that: at best {best}. "
        "Lower --agree-at-least, or give more, and more typical, samples."
    )


def _rank(converter: Converter, distance: Distance, seconds: float, progress: Progress) -> list[KeptLayer]:
    """All layers, the most sensitive first. Those that there is no time to measure come before all others."""
    names = {node.name for node in converter.layers}
    end = time.monotonic() + seconds
    ranked, measured = [], 0
    for place, node in enumerate(converter.layers):
        error = None
        if time.monotonic() < end:
            error = distance(converter.convert(names - {node.name}))
            progress(f"layer {place + 1} of {len(names)}, {node.name}: alone it moves the outputs by {error:.2%}")
            measured += 1
        ranked.append(KeptLayer(node.name, node.op_type, error if error is not None and isfinite(error) else None))
    if measured < len(names):
        progress(f"the time for measuring is over; layers {measured + 1} to {len(names)} count as the most sensitive")
    return sorted(ranked, key=lambda layer: -(float("inf") if layer.error is None else layer.error))
