"""Have a file converted to another precision in a child process, and judge what comes back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.child_process import Progress
from hangtag.export.errors import GateError
from hangtag.export.gate import speed
from hangtag.export.gate.check import AGREEMENT, BATCHING
from hangtag.export.gate.speed import Speed
from hangtag.export.quantization import conversion
from hangtag.export.quantization.conversion import Request
from hangtag.export.quantization.precision import keep_origin
from hangtag.export.third_party import probe

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
        instructions = ", ".join(speed.instructions())
        sure = f"of all, {proven['at_least_with_95_percent_confidence']:.2%} at least, with 95 % confidence"
        return {
            "precision": f"{self.request.precision} in {layers - len(kept)} of {layers} layers{in_fp32}",
            AGREEMENT: f"{proven['summary']} ({sure}), none of which it was made with; {rules}",
            "size": f"{self.megabytes:.2f} MB, {self.megabytes / self.original_megabytes:.0%} of the original's",
            "speed": f"{Speed.of(self.findings['speed'])}{f', with {instructions}' if instructions else ''}",
        }

    @property
    def metadata(self) -> dict[str, str]:
        """What is written into the file (keys without their prefix), the gate's figures excepted."""
        return {
            "precision": self.request.precision,
            "fp32_layers": json.dumps(self.findings["fp32_layers"]),
            "processor": ", ".join(speed.instructions()),
            "speed": json.dumps(self.findings["speed"]),
        }


def convert(original: Path, request: Request, progress: Progress, shown_as: Path) -> Converted:
    """Convert a file, and require that it answers like the original.

    Args:
        original: The file. Others are written where it lies.
        request: ``batched`` is set here, as the probe of the original finds it.
        progress: gets a line about each step, from a thread of its own.
        shown_as: the file's name in error messages.

    Raises:
        ExportError: the samples do not fit, or the file cannot be converted.
        GateError: the original does not run, or the converted file answers too many samples otherwise.
    """
    request = replace(request, batched=probe.run(original, shown_as)[BATCHING]["batched"])
    target = original.with_name("converted.onnx")
    findings = child_process.run(
        conversion.convert,
        shown_as,
        "conversion",
        seconds=request.search_seconds + _SECONDS,
        progress=progress,
        original=str(original),
        target=str(target),
        request=asdict(request),
    )
    _require_agreement(findings[AGREEMENT], request.least)
    converted = onnx.load(target)
    keep_origin(converted, onnx.load(original))
    return Converted(converted, request, findings, target.stat().st_size / 1e6, original.stat().st_size / 1e6)


def _require_agreement(proven: Mapping[str, Any], least: float) -> None:
    if proven["share"] < least:
        raise GateError(
            AGREEMENT,
            f"{proven['summary']}, of those that the file was not made with; {least:.2%} must be. Give more "
            "samples, so that those by which layers are chosen are like these, or lower --agree-at-least.",
        )
