"""Convert a file to another precision in a child process, and require that it answers the user's samples as before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.arrays import Answers
from hangtag.export.child_process import Progress
from hangtag.export.errors import GateError
from hangtag.export.gate import speed
from hangtag.export.gate.check import AGREEMENT, BATCHING
from hangtag.export.gate.speed import Speed
from hangtag.export.quantization import agreement, samples
from hangtag.export.quantization.agreement import Agreement, Comparison
from hangtag.export.quantization.converters import Fp16Converter, Int8Converter
from hangtag.export.quantization.precision import keep_origin
from hangtag.export.quantization.samples import Feed, spread
from hangtag.export.quantization.search import KeptLayer, search
from hangtag.export.third_party import probe
from hangtag.serving.server.runtime.session import Runtime

_FEW = 32
"""A layer's error is measured on this many samples."""
_SECONDS = 3600.0
"""For all but the measuring of layers, which has its own limit."""
_NAMED = 6
"""So many layers in FP32 are named on the terminal; the metadata name all."""


@dataclass(frozen=True)
class Request:
    """What to convert a file to, and by which samples.

    Attributes:
        precision: int8 or fp16.
        samples: The .npz file or the folder; None for the pictures that the accuracy is measured on.
        least: The share of samples that must be answered alike.
        rules: Output -> rule of ``agreement.RULES``; empty to compare every output by the rule that fits it.
        search_seconds: For measuring layers.
    """

    precision: str
    samples: Path | None
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
        "speed": json.dumps(figures["speed"]),
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
        "speed": f"{Speed.of(figures['speed'])}{f', with {instructions}' if instructions else ''}",
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
    chosen = search(
        converter,
        lambda model: comparison.agreement(answers(model, given.making)),
        lambda model: few.distance(answers(model, spread(given.making, _FEW))),
        request.least,
        request.search_seconds,
        child_process.report,
    )
    onnx.save(chosen.model, target)
    converted = Runtime(target, provider="cpu")
    proven = Comparison(proof, rules).agreement(_answers(converted, given.proof))
    too_large = [KeptLayer(node.name, node.op_type, None) for node in converter.too_large]
    return {
        "agreement": _figures(proven) | {"least": request.least},
        "agreement_while_choosing": _figures(chosen.agreement),
        "layers": len(converter.layers) + len(too_large),
        "fp32_layers": [asdict(layer) for layer in (*too_large, *chosen.kept)],
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
