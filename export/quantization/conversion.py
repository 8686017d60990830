"""Convert a file in a child process: python -m hangtag.export.quantization.conversion FOLDER.

The file, and the programs that convert it, can end the process. The folder holds ``original.onnx`` and ``request.json``
(a Request); ``converted.onnx`` is written there. The findings are JSON on the last line of standard output, and lines
about the progress go to standard error.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hangtag.export.arrays import Answers
from hangtag.export.errors import ExportError
from hangtag.export.quantization import agreement, samples
from hangtag.export.quantization.agreement import Agreement, Comparison
from hangtag.export.quantization.converters import Converter, Fp16Converter, Int8Converter
from hangtag.export.quantization.samples import Feed, Samples, spread
from hangtag.export.quantization.search import Found, Judge, KeptLayer, search
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.errors import DataCorruptError

ORIGINAL, CONVERTED, REQUEST = "original.onnx", "converted.onnx", "request.json"
PROGRESS = "progress: "
"""Lines on standard error that begin so are for the user."""
_FEW = 32
"""A layer's error is measured on this many samples."""
_MIN_ROUNDS, _MAX_ROUNDS, _SECONDS = 5, 50, 1.0


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

    def write(self, folder: Path) -> None:
        (folder / REQUEST).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Request":
        return cls(**json.loads((folder / REQUEST).read_text(encoding="utf-8")))


def convert(folder: Path) -> dict[str, Any]:
    """Convert the file in the folder as its request says.

    Returns:
        JSON values: ``agreement`` on the samples of the proof, ``fp32_layers`` with their errors, ``layers``, how many
        there are, ``rules``, ``samples`` and ``speed``; only ``refused``, the reason, where there is no such file.
    """
    try:
        return _convert(Request.read(folder), folder)
    except UnicodeDecodeError as error:
        return {"refused": f"a name or a text in the file is not UTF-8 ({error})."}
    except (ExportError, DataCorruptError, ModelLoadError, InferenceError) as error:
        return {"refused": " ".join(str(error).split())}


def _convert(request: Request, folder: Path) -> dict[str, Any]:
    original = Runtime(folder / ORIGINAL, provider="cpu")
    given = samples.read(Path(request.samples), original.signature)
    _report(f"{len(given.making)} samples make the file, {len(given.proof)} others prove it")
    made, proof = (_answers(original, feeds) for feeds in (given.making, given.proof))
    rules = agreement.rules(original.signature, [*made, *proof], request.rules)
    converter = _converter(request.precision, folder, given)
    found = _search(converter, Comparison(made, rules), given, request, folder)
    target = folder / CONVERTED
    onnx.save(found.model, target)
    converted = Runtime(target, provider="cpu")
    proven = Comparison(proof, rules).agreement(_answers(converted, given.proof))
    return {
        "agreement": _figures(proven) | {"least": request.least},
        "agreement_while_choosing": _figures(found.agreement),
        "layers": len(converter.layers) + len(converter.too_large),
        "fp32_layers": [asdict(layer) for layer in (*_too_large(converter), *found.kept)],
        "rules": rules,
        "samples": {"made": len(given.making), "proved": len(given.proof)},
        "speed": _speed(original, converted, given.proof[0], request.batched),
    }


def _converter(precision: str, folder: Path, given: Samples) -> Converter:
    model = onnx.load(folder / ORIGINAL)
    if precision == "fp16":
        return Fp16Converter(model, given.feeds, folder)
    return Int8Converter(model, given.calibration, folder)


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
    return search(converter, judge, request.least, request.search_seconds, _report)


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


def _speed(original: Runtime, converted: Runtime, feed: Feed, batched: bool) -> dict[str, Any]:
    """Median milliseconds of both files, in turns, for one sample, and for 64 of a batched model; on one thread."""
    medians: dict[str, dict[str, float]] = {}
    contenders = {"file": converted, "original": original}
    for size in (1, 64) if batched else (1,):
        inputs = {name: np.concatenate([array] * size) for name, array in feed.items()} if size > 1 else feed
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for runtime in contenders.values():
            runtime.run(inputs)  # the first run pays for allocations
        begin = time.perf_counter()
        for rounds in range(_MAX_ROUNDS):
            if rounds >= _MIN_ROUNDS and time.perf_counter() - begin > _SECONDS:
                break
            for name, runtime in contenders.items():
                start = time.perf_counter()
                runtime.run(inputs)
                times[name].append((time.perf_counter() - start) * 1e3)
        medians[str(size)] = {name: round(float(np.median(each)), 4) for name, each in times.items()}
    return {"threads": 1, "median_ms": medians, "missing": {}}


def _report(line: str) -> None:
    sys.stderr.write(f"{PROGRESS}{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(convert(Path(sys.argv[1]))) + "\n")
