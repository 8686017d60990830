"""Have a file converted to another precision in a child process, and judge what comes back."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.errors import ExportError, GateError
from hangtag.export.gate import processor
from hangtag.export.gate.check import AGREEMENT, BATCHING
from hangtag.export.quantization import conversion
from hangtag.export.quantization.conversion import Request
from hangtag.export.quantization.precision import keep_origin
from hangtag.export.third_party.processes import run_probe

Progress = Callable[[str], object]
_SECONDS = 3600.0
"""For all but the measuring of layers, which has its own limit."""
_NAMED = 6
"""So many layers in FP32 are named on the terminal; the report and the metadata name all."""


@dataclass(frozen=True)
class Converted:
    """A file in another precision, whose answers agree with the original's."""

    model: onnx.ModelProto
    request: Request
    findings: Mapping[str, Any]
    """What ``quantization.conversion.convert`` returned."""
    megabytes: float
    original_megabytes: float

    @property
    def summaries(self) -> dict[str, str]:
        """The findings in words, by check."""
        kept = [layer["name"] for layer in self.findings["fp32_layers"]]
        layers = self.findings["layers"]
        in_fp32 = f"; in FP32: {', '.join(kept[:_NAMED])}{' and more' if len(kept) > _NAMED else ''}" if kept else ""
        rules = ", ".join(f"{name} by {rule}" for name, rule in self.findings["rules"].items())
        proven = self.findings[AGREEMENT]
        sure = f"of all, {proven['at_least_with_95_percent_confidence']:.2%} at least, with 95 % confidence"
        return {
            "precision": f"{self.request.precision} in {layers - len(kept)} of {layers} layers{in_fp32}",
            AGREEMENT: f"{proven['summary']} ({sure}), none of which it was made with; {rules}",
            "size": f"{self.megabytes:.2f} MB, {self.megabytes / self.original_megabytes:.0%} of the original's",
            "speed": self._speed(),
        }

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix), the gate's figures excepted."""
        return {
            "precision": self.request.precision,
            "fp32_layers": json.dumps(self.findings["fp32_layers"]),
            "processor": ", ".join(processor.instructions()),
            "speed": json.dumps(self.findings["speed"]),
        }

    def _speed(self) -> str:
        parts = [
            f"batch {size} in {times['file']:.2f} ms ({times['original'] / times['file']:.1f}x original)"
            for size, times in self.findings["speed"]["median_ms"].items()
        ]
        instructions = ", ".join(processor.instructions())
        return f"{', '.join(parts)}, 1 thread{f', with {instructions}' if instructions else ''}"


def convert(model: onnx.ModelProto, request: Request, progress: Progress, shown_as: Path) -> Converted:
    """Convert a model, and require that it answers like the original.

    Args:
        request: ``batched`` is set here, as the probe of the original finds it.
        progress: gets a line about each step, from a thread of its own.
        shown_as: the file's name in error messages.

    Raises:
        ExportError: the samples do not fit, or the file cannot be converted.
        GateError: the original does not run, or the converted file answers too many samples otherwise.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / conversion.ORIGINAL
        original.write_bytes(model.SerializeToString())
        request = replace(request, batched=run_probe(original, shown_as)[BATCHING]["batched"])
        request.write(folder)
        findings = _run(folder, request, progress, shown_as)
        target = folder / conversion.CONVERTED
        converted = onnx.load(target)
        keep_origin(converted, model)
        return Converted(converted, request, findings, target.stat().st_size / 1e6, original.stat().st_size / 1e6)


def _run(folder: Path, request: Request, progress: Progress, shown_as: Path) -> dict[str, Any]:
    def follow(line: str) -> None:
        if line.startswith(conversion.PROGRESS):
            progress(line.removeprefix(conversion.PROGRESS))

    try:
        seconds = request.search_seconds + _SECONDS
        findings = child_process.run("hangtag.export.quantization.conversion", folder, seconds, follow)
    except child_process.ChildAbortedError as error:
        raise ExportError(
            f"the conversion of {shown_as} ended its process (signal {error.signal}). Nothing was published."
        ) from error
    except child_process.ChildFailedError as error:
        raise ExportError(f"the conversion of {shown_as} failed: {error}. Nothing was published.") from error
    if "refused" in findings:
        reason = findings["refused"].replace(str(folder / conversion.ORIGINAL), str(shown_as))
        raise ExportError(f"{reason} Nothing was published.")
    proven = findings[AGREEMENT]
    if proven["share"] < request.least:
        raise GateError(
            AGREEMENT,
            f"{proven['summary']}, of those that the file was not made with; {request.least:.2%} must be. Give more "
            "samples, so that those by which layers are chosen are like these, or lower --agree-at-least.",
        )
    return findings
