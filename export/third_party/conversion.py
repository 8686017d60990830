"""Convert a file to int8 in a child process, and require that most answers to the user's samples stay the same."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.child_process import Progress
from hangtag.export.errors import ExportError, GateError
from hangtag.export.gate.check import AGREEMENT
from hangtag.export.network_arrays import Answers
from hangtag.export.quantization import agreement, calibration_samples
from hangtag.export.quantization.agreement import Agreement, Comparison
from hangtag.export.quantization.calibration_samples import Feed, spread
from hangtag.export.quantization.converters import Int8Converter
from hangtag.export.quantization.precision import keep_origin
from hangtag.export.third_party.import_options import ImportOptions
from hangtag.serving.server.runtime.session import Runtime

_FEW, _MOST_CALIBRATING = 32, 256
"""The number of samples for measuring a layer's error, and the maximum number for determining the scales."""
_SECONDS, _MEASURING_SECONDS = 3600.0, 600.0
"""The time limits, in seconds, for converting a file (without measuring its layers) and for measuring the layers."""
_NAMED = 6
"""At most this many layers in FP32 are printed by name. The file's metadata list every layer that stays in FP32."""
_Layer = dict[str, Any]
"""A layer that stays in FP32: its name, operator and error. The error is the change of the outputs, as a share of their
spread, if only this layer is converted; None if it was not measured."""


@dataclass(frozen=True)
class _Found:
    """A converted file, with its layers that stay in FP32, the most sensitive first."""

    model: onnx.ModelProto
    kept: Sequence[_Layer]
    agreement: Agreement


def convert(
    original: Path, options: ImportOptions, progress: Progress, shown_as: Path
) -> tuple[onnx.ModelProto, Mapping[str, Any], Mapping[str, str]]:
    """Convert a file, and require that the result gives the original's answers.

    Args:
        original: The file. The other files are written to the same folder.
        options: The options of the command; ``samples`` must be set.
        progress: called with a line about each step, in a separate thread.
        shown_as: the file's name in error messages.

    Returns:
        The converted file; the measurements that ``_convert`` returns; and a summary of each check.

    Raises:
        ExportError: the samples do not fit the file's inputs, or the file cannot be converted.
        GateError: the original cannot be run, or the converted file gives other answers to too many samples.
    """
    target = original.with_name("converted.onnx")
    figures = child_process.run(
        _convert,
        original,
        target,
        options,
        shown_as=shown_as,
        check="conversion",
        seconds=_SECONDS + _MEASURING_SECONDS,
        progress=progress,
    )
    proven = figures[AGREEMENT]
    if proven["share"] < proven["least"]:
        raise GateError(
            AGREEMENT,
            f"{proven['summary']} that test the converted file, but {proven['least']:.2%} are required. Give "
            "more samples, so that the half used to convert the file resembles the half used to test it, or lower "
            "--agree-at-least.",
        )
    converted = onnx.load(target)
    keep_origin(converted, onnx.load(original))
    kept, layers = [layer["name"] for layer in figures["fp32_layers"]], figures["layers"]
    in_fp32 = f"; in FP32: {', '.join(kept[:_NAMED])}{' and more' if len(kept) > _NAMED else ''}" if kept else ""
    rules = ", ".join(f"{name} by {rule}" for name, rule in figures["rules"].items())
    sure = f"with 95 % confidence, to at least {proven['at_least_with_95_percent_confidence']:.2%} of all such samples"
    megabytes, before = (file.stat().st_size / 1e6 for file in (target, original))
    summaries = {
        "precision": f"{options.precision} in {layers - len(kept)} of {layers} layers{in_fp32}",
        AGREEMENT: f"{proven['summary']}, none of which was used to convert the file; {sure}. Compared: {rules}",
        "size": f"{megabytes:.2f} MB, {megabytes / before:.0%} of the original's size",
    }
    return converted, figures, summaries


def _convert(original: Path, target: Path, options: ImportOptions) -> dict[str, Any]:
    """Write the converted file to ``target``, and other files to the same folder. This runs in a child process.

    Returns:
        JSON values: ``agreement`` on the samples that test the file, ``fp32_layers`` with their errors, ``layers``
        (the number of all layers), ``rules`` and ``samples``.
    """
    assert options.samples is not None
    folder = target.parent
    runtime = Runtime(original, provider="cpu")
    samples = calibration_samples.read(options.samples, runtime.signature)
    making_feeds, proof_feeds = calibration_samples.making(samples), calibration_samples.proof(samples)
    child_process.report(f"{len(making_feeds)} samples are used to convert the file, {len(proof_feeds)} to test it")
    making, proof = (_answers(runtime, feeds) for feeds in (making_feeds, proof_feeds))
    rules = agreement.rules(runtime.signature, [*making, *proof], options.rules)
    converter = Int8Converter(onnx.load(original), spread(making_feeds, _MOST_CALIBRATING), folder)

    def answers(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Answers]:
        candidate = folder / "candidate.onnx"
        onnx.save(model, candidate)
        return _answers(Runtime(candidate, provider="cpu"), feeds)

    comparison, few = Comparison(making, rules), Comparison(spread(making, _FEW), rules)
    chosen = _search(
        converter,
        lambda model: comparison.agreement(answers(model, making_feeds)),
        lambda model: few.distance(answers(model, spread(making_feeds, _FEW))),
        options.least(len(making_feeds)),
    )
    onnx.save(chosen.model, target)
    converted = Runtime(target, provider="cpu")
    proven = Comparison(proof, rules).agreement(_answers(converted, proof_feeds))
    return {
        "agreement": _figures(proven) | {"least": options.least(len(proof_feeds))},
        "agreement_while_choosing": _figures(chosen.agreement),
        "layers": len(converter.layers),
        "fp32_layers": chosen.kept,
        "rules": rules,
        "samples": {"made": len(making_feeds), "proved": len(proof_feeds)},
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
    converter: Int8Converter,
    agreement: Callable[[onnx.ModelProto], Agreement],
    distance: Callable[[onnx.ModelProto], float],
    least: float,
) -> _Found:
    """Find the smallest number of layers to keep in FP32 so that enough samples get the original file's answer.

    A layer's error is the change of the outputs if only this layer is converted. The layers with the largest errors
    stay in FP32. Bisection determines the number of these layers.

    Args:
        agreement: a function that computes a converted file's agreement with the original, on all samples for this
            search.
        distance: a function that computes ``Comparison.distance`` of a converted file, on a few of these samples.
        least: the share of samples that must get the original's answer. If possible, the search allows only half of the
            wrong answers that this share permits, as a margin for the later test on other samples.

    Raises:
        ExportError: ``least`` is reached only if all layers stay in FP32.
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
    ranked += _rank(converter, distance)
    few, enough = 0, len(ranked)  # invariant: the file fails with `few` layers in FP32, and passes with `enough`
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if suffices(middle) else (middle, enough)
    for bound in (wanted, least):
        for count in sorted(attempts):
            if attempts[count].agreement.share >= bound:
                return attempts[count]
    best = max((attempt.agreement for attempt in attempts.values()), key=lambda reached: reached.share)
    raise ExportError(
        f"{least:.1%} of the samples must get the original's answer, but no choice of layers achieves this: at best, "
        f"{best}. Lower --agree-at-least, or give more typical samples."
    )


def _rank(converter: Int8Converter, distance: Callable[[onnx.ModelProto], float]) -> list[_Layer]:
    """Return all layers, the most sensitive first. Layers not measured before the time limit come first."""
    names = {node.name for node in converter.layers}
    end = time.monotonic() + _MEASURING_SECONDS
    ranked, measured = [], 0
    for place, node in enumerate(converter.layers):
        error = None
        if time.monotonic() < end:
            error = distance(converter.convert(names - {node.name}))
            child_process.report(
                f"layer {place + 1} of {len(names)}, {node.name}: its conversion changes the outputs by {error:.2%}"
            )
            measured += 1
        # None also stands for outputs that are not finite
        error = error if error is not None and isfinite(error) else None
        ranked.append({"name": node.name, "operator": node.op_type, "error": error})
    if measured < len(names):
        child_process.report(
            f"layers {measured + 1} to {len(names)} were not measured in time, so they count as the most sensitive"
        )
    return sorted(ranked, key=lambda layer: -(float("inf") if layer["error"] is None else layer["error"]))
