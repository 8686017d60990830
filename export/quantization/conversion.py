"""Convert somebody's file in a child process, which the file, and the programs that convert it, can end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.arrays import Answers
from hangtag.export.gate import speed
from hangtag.export.quantization import agreement, samples
from hangtag.export.quantization.agreement import Agreement, Comparison
from hangtag.export.quantization.converters import Converter, Fp16Converter, Int8Converter
from hangtag.export.quantization.samples import Feed, Samples, spread
from hangtag.export.quantization.search import Found, Judge, KeptLayer, search
from hangtag.serving.server.runtime.session import Runtime

_FEW = 32
"""A layer's error is measured on this many samples."""


@dataclass(frozen=True)
class Request:
    """What to convert a file to, and by which samples.

    samples: the .npz file or the folder.
    least: the share of samples that must be answered alike.
    rules: output -> rule of ``agreement.RULES``; empty to compare every output by the rule that fits it.
    search_seconds: for measuring layers.
    batched: whether the original's requests may be batched, as was proven.
    """

    precision: str
    samples: str
    least: float
    rules: Mapping[str, str]
    search_seconds: float
    batched: bool = False


def convert(original: str, target: str, request: dict[str, Any]) -> dict[str, Any]:
    """Convert a file as the request says.

    Args:
        original: The file.
        target: The converted file, to be written. Other files are written where it lies.
        request: A Request, as ``asdict`` has it.

    Returns:
        JSON values: ``agreement`` on the samples of the proof, ``fp32_layers`` with their errors, ``layers``, how many
        there are, ``rules``, ``samples`` and ``speed``.

    Raises:
        ExportError: the samples do not fit, or the file cannot be converted so.
        DataCorruptError: a picture cannot be read.
        ModelLoadError: the file, or a converted one, cannot be loaded.
        InferenceError: it fails on a sample.
    """
    asked, file = Request(**request), Path(target)
    runtime = Runtime(Path(original), provider="cpu")
    given = samples.read(Path(asked.samples), runtime.signature)
    child_process.report(f"{len(given.making)} samples make the file, {len(given.proof)} others prove it")
    making, proof = (_answers(runtime, feeds) for feeds in (given.making, given.proof))
    rules = agreement.rules(runtime.signature, [*making, *proof], asked.rules)
    converter = (
        Fp16Converter(onnx.load(original), given.feeds, file.parent)
        if asked.precision == "fp16"
        else Int8Converter(onnx.load(original), given.calibration, file.parent)
    )
    chosen = _search(converter, Comparison(making, rules), given, asked, file.parent)
    onnx.save(chosen.model, file)
    converted = Runtime(file, provider="cpu")
    proven = Comparison(proof, rules).agreement(_answers(converted, given.proof))
    return {
        "agreement": _figures(proven) | {"least": asked.least},
        "agreement_while_choosing": _figures(chosen.agreement),
        "layers": len(converter.layers) + len(converter.too_large),
        "fp32_layers": [asdict(layer) for layer in (*_too_large(converter), *chosen.kept)],
        "rules": rules,
        "samples": {"made": len(given.making), "proved": len(given.proof)},
        "speed": speed.of_files({speed.FILE: converted, "original": runtime}, given.proof[0], batched=asked.batched),
    }


def _too_large(converter: Converter) -> list[KeptLayer]:
    return [KeptLayer(node.name, node.op_type, None) for node in converter.too_large]


def _search(converter: Converter, comparison: Comparison, given: Samples, request: Request, folder: Path) -> Found:
    def answers(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Answers]:
        candidate = folder / "candidate.onnx"
        onnx.save(model, candidate)
        return _answers(Runtime(candidate, provider="cpu"), feeds)

    few = Comparison(spread(comparison.expected, _FEW), comparison.rules)
    few_feeds = spread(given.making, _FEW)
    judge = Judge(
        agreement=lambda model: comparison.agreement(answers(model, given.making)),
        distance=lambda model: few.distance(answers(model, few_feeds)),
    )
    return search(converter, judge, request.least, request.search_seconds, child_process.report)


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
