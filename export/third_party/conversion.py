"""Convert a file to another precision in a child process, and require that it answers the user's samples as before."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.arrays import Answers
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.gate import speed
from hangtag.export.gate.check import AGREEMENT, BATCHING
from hangtag.export.quantization import agreement, samples
from hangtag.export.quantization.agreement import Agreement, Comparison
from hangtag.export.quantization.converters import Converter, Fp16Converter, Int8Converter
from hangtag.export.quantization.precision import keep_origin
from hangtag.export.quantization.samples import Feed, spread
from hangtag.export.third_party import probe
from hangtag.serving.server.runtime.session import Runtime

_FEW = 32
"""A layer's error is measured on this many samples."""
_SECONDS = 3600.0
"""For all but the measuring of layers, which has its own limit."""
_NAMED = 6
"""So many layers in FP32 are named on the terminal; the metadata name all."""
_Layer = dict[str, Any]
"""One that stays in FP32: its name, operator and error."""


@dataclass(frozen=True)
class Request:
    """What to convert a file to, and by which samples.

    Attributes:
        precision: int8 or fp16.
        samples: See ``samples.read``; None for the pictures that the accuracy is measured on.
        least: The share of samples that must be answered alike.
        rules: Output -> rule of ``agreement.RULES``; empty to compare every output by the rule that fits it.
        search_seconds: For measuring layers.
    """

    precision: str
    samples: Path | Sequence[str] | None
    least: float
    rules: Mapping[str, str]
    search_seconds: float


@dataclass(frozen=True)
class Converted:
    """A file in another precision, whose answers agree with the original's.

    Attributes:
        model: The file.
        batched: Whether the original's requests may be batched.
        figures: What was measured; JSON values, by check.
        metadata: What is written into the file (keys without their prefix), the gate's figures excepted.
        summaries: The figures in words, by check.
    """

    model: onnx.ModelProto
    batched: bool
    figures: Mapping[str, Any]
    metadata: Mapping[str, str]
    summaries: Mapping[str, str]


@dataclass(frozen=True)
class _Found:
    """The converted file, and the layers that stay in FP32 in it, the most sensitive first."""

    model: onnx.ModelProto
    kept: Sequence[_Layer]
    agreement: Agreement


def convert(original: Path, request: Request, progress: Progress, shown_as: Path) -> Converted:
    """Convert a file, and require that it answers like the original.

    Args:
        original: The file. Others are written where it lies.
        request: With samples.
        progress: gets a line about each step, from a thread of its own.
        shown_as: the file's name in error messages.

    Raises:
        ExportError: the samples do not fit, or the file cannot be converted.
        GateError: the original does not run, or the converted file answers too many samples otherwise.
    """
    batched = probe.run(original, shown_as)[BATCHING]["batched"]
    target = original.with_name("converted.onnx")
    figures = child_process.run(
        _convert,
        original,
        target,
        request,
        batched,
        shown_as=shown_as,
        check="conversion",
        seconds=request.search_seconds + _SECONDS,
        progress=progress,
    )
    proven = figures[AGREEMENT]
    if proven["share"] < request.least:
        raise GateError(
            AGREEMENT,
            f"{proven['summary']}, of those that the file was not made with; {request.least:.2%} must be. Give more "
            "samples, so that those by which layers are chosen are like these, or lower --agree-at-least.",
        )
    converted = onnx.load(target)
    keep_origin(converted, onnx.load(original))
    instructions = ", ".join(speed.instructions())
    metadata = {
        "precision": request.precision,
        "fp32_layers": json.dumps(figures["fp32_layers"]),
        "processor": instructions,
        "speed": json.dumps(figures["speed"].figures),
    }
    kept, layers = [layer["name"] for layer in figures["fp32_layers"]], figures["layers"]
    in_fp32 = f"; in FP32: {', '.join(kept[:_NAMED])}{' and more' if len(kept) > _NAMED else ''}" if kept else ""
    rules = ", ".join(f"{name} by {rule}" for name, rule in figures["rules"].items())
    sure = f"of all, {proven['at_least_with_95_percent_confidence']:.2%} at least, with 95 % confidence"
    megabytes, before = (file.stat().st_size / 1e6 for file in (target, original))
    summaries = {
        "precision": f"{request.precision} in {layers - len(kept)} of {layers} layers{in_fp32}",
        AGREEMENT: f"{proven['summary']} ({sure}), none of which it was made with; {rules}",
        "size": f"{megabytes:.2f} MB, {megabytes / before:.0%} of the original's",
        "speed": f"{figures['speed']}{f', with {instructions}' if instructions else ''}",
    }
    return Converted(converted, batched, figures, metadata, summaries)


def _convert(original: Path, target: Path, request: Request, batched: bool) -> dict[str, Any]:
    """In a child process: write the converted file, and other files where it lies.

    Returns:
        JSON values: ``agreement`` on the samples of the proof, ``fp32_layers`` with their errors, ``layers``, how many
        there are, ``rules``, ``samples`` and ``speed``.
    """
    assert request.samples is not None
    folder = target.parent
    runtime = Runtime(original, provider="cpu")
    given = samples.read(request.samples, runtime.signature)
    child_process.report(f"{len(given.making)} samples make the file, {len(given.proof)} others prove it")
    making, proof = (_answers(runtime, feeds) for feeds in (given.making, given.proof))
    rules = agreement.rules(runtime.signature, [*making, *proof], request.rules)
    converter = (
        Fp16Converter(onnx.load(original), given.feeds, folder)
        if request.precision == "fp16"
        else Int8Converter(onnx.load(original), given.calibration, folder)
    )

    def answers(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Answers]:
        candidate = folder / "candidate.onnx"
        onnx.save(model, candidate)
        return _answers(Runtime(candidate, provider="cpu"), feeds)

    comparison, few = Comparison(making, rules), Comparison(spread(making, _FEW), rules)
    chosen = _search(
        converter,
        lambda model: comparison.agreement(answers(model, given.making)),
        lambda model: few.distance(answers(model, spread(given.making, _FEW))),
        request.least,
        request.search_seconds,
    )
    onnx.save(chosen.model, target)
    converted = Runtime(target, provider="cpu")
    proven = Comparison(proof, rules).agreement(_answers(converted, given.proof))
    too_large = [_layer(node, None) for node in converter.too_large]
    return {
        "agreement": _figures(proven) | {"least": request.least},
        "agreement_while_choosing": _figures(chosen.agreement),
        "layers": len(converter.layers) + len(too_large),
        "fp32_layers": [*too_large, *chosen.kept],
        "rules": rules,
        "samples": {"made": len(given.making), "proved": len(given.proof)},
        "speed": speed.of_files({speed.FILE: converted, "original": runtime}, given.proof[0], batched=batched),
    }


def _answers(runtime: Runtime, feeds: Sequence[Feed]) -> list[Answers]:
    return [runtime.run(feed) for feed in feeds]


def _figures(result: Agreement) -> dict[str, Any]:
    return {
        "agreeing": result.agreeing,
        "samples": result.samples,
        "share": result.share,
        "at_least_with_95_percent_confidence": result.at_least,
        "summary": str(result),
    }


def _search(
    converter: Converter,
    agreement: Callable[[onnx.ModelProto], Agreement],
    distance: Callable[[onnx.ModelProto], float],
    least: float,
    seconds: float,
) -> _Found:
    """Keep as few layers in FP32 as suffice for as many samples as are wanted to be answered alike.

    Each layer is converted alone, and its error measured: how far that moves the outputs. The layers with the largest
    errors stay in FP32, as few of them as suffice, which bisection finds.

    Args:
        agreement: of a converted file's answers with the original's, on all samples by which layers are chosen.
        distance: how far they are apart, as ``Comparison.distance`` says, on a few of them.
        least: the share of samples that must be answered alike. The search aims at half as many others, because the
            samples that prove the file are not those that it sees; where that cannot be had, at as many.
        seconds: for measuring layers; those that are not reached count as the most sensitive.

    Raises:
        ExportError: the agreement holds only where no layer is converted.
    """
    wanted = 1 - (1 - least) / 2
    attempts: dict[int, _Found] = {}
    ranked: list[_Layer] = []

    def suffices(count: int) -> bool:
        model = converter.convert({layer["name"] for layer in ranked[:count]})
        attempts[count] = _Found(model, ranked[:count], agreement(model))
        child_process.report(
            f"{len(converter.layers) - count} of {len(converter.layers)} layers converted: {attempts[count].agreement}"
        )
        return attempts[count].agreement.share >= wanted

    if suffices(0):
        return attempts[0]
    ranked += _rank(converter, distance, seconds)
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


def _rank(converter: Converter, distance: Callable[[onnx.ModelProto], float], seconds: float) -> list[_Layer]:
    """All layers, the most sensitive first. Those that there is no time to measure come before all others."""
    names = {node.name for node in converter.layers}
    end = time.monotonic() + seconds
    ranked, measured = [], 0
    for place, node in enumerate(converter.layers):
        error = None
        if time.monotonic() < end:
            error = distance(converter.convert(names - {node.name}))
            child_process.report(
                f"layer {place + 1} of {len(names)}, {node.name}: alone it moves the outputs by {error:.2%}"
            )
            measured += 1
        ranked.append(_layer(node, error if error is not None and isfinite(error) else None))
    if measured < len(names):
        child_process.report(
            f"the time for measuring is over; layers {measured + 1} to {len(names)} count as the most sensitive"
        )
    return sorted(ranked, key=lambda layer: -(float("inf") if layer["error"] is None else layer["error"]))


def _layer(node: onnx.NodeProto, error: float | None) -> _Layer:
    """The error is by how much its conversion alone would move the outputs, as a share of their spread; None where the
    time did not suffice to measure it, or the outputs were not finite."""
    return {"name": node.name, "operator": node.op_type, "error": error}
