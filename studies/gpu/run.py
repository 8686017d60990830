"""Checks each model on a GPU: computes it in each way, compares its answers with the CPU's, and measures latency."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hangtag.serving.model_repository import ModelRepositoryError, serving_versions
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.batch_buckets import bucket_sizes
from hangtag.serving.server.runtime.inference_session import VERSION
from hangtag.serving.server.runtime.providers import BY_NAME
from hangtag.serving.server.runtime.session import Runtime
from studies.gpu.worker import WAYS

LARGEST_DIFFERENCE = 0.01
"""Between GPU and CPU, as a share of an output's largest value: GPUs round factors to ten bits (TF32)."""

_SIZES_SHOWN = (1, 8, 64)
_TIMEOUT = 1200.0


@click.command()
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--provider", type=click.Choice(list(BY_NAME)), default="cuda", show_default=True)
@click.option("--largest", type=click.IntRange(1, 4096), default=64, show_default=True, help="The largest batch.")
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True, help="Measurements of each batch size.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/gpu-check.json"), show_default=True)
def main(models: Path, provider: str, largest: int, runs: int, out: Path) -> None:
    """Check and measure every model of a repository on this machine's GPU.

    Exit code 1 where a check fails. With --provider cpu the command checks itself, without a GPU.
    """
    files = _files(models)
    _require(provider, files[0])
    console = Console()
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": _gpu(),
        "onnxruntime": VERSION,
        "provider_asked": provider,
        "largest_difference": LARGEST_DIFFERENCE,
        "rows": [],
    }
    for file in files:
        for way in WAYS:
            console.print(f"{file.parts[-3]}: {WAYS[way]}", style="dim")
            request = {"way": way, "provider": provider, "sizes": bucket_sizes(largest), "runs": runs}
            row = {"model": file.parts[-3], "way": way} | run_worker({"file": str(file), **request})
            document["rows"].append(row | {"problem": problem(row, provider)})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    console.print(table(document))
    for row in document["rows"]:
        for note, reason in row.get("notes", {}).items():
            console.print(f"{row['model']}, {WAYS[row['way']]}: {note}: {reason}", style="dim")
    console.print(f"wrote {out}")
    problems = [row for row in document["rows"] if row["problem"]]
    for row in problems:
        console.print(f"[red]{row['model']}, {WAYS[row['way']]}: {row['problem']}")
    if problems:
        raise SystemExit(1)


def run_worker(request: dict[str, Any]) -> dict[str, Any]:
    """The figures that a process of its own measured, or {"failure": reason} where a GPU's error ended the process."""
    command = [sys.executable, "-m", "studies.gpu.worker", json.dumps(request)]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"failure": f"not finished after {_TIMEOUT:g} s"}
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or [""])[-1]
        return {"failure": f"the process ended with {finished.returncode}: {last}"}
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def problem(row: dict[str, Any], provider: str) -> str:
    """The check that failed, or an empty text. Graphs that cannot be captured are a note, not a problem."""
    if "failure" in row:
        return str(row["failure"])
    if "skipped" in row:
        return ""
    if row["provider"] != BY_NAME[provider]:
        return f"{BY_NAME[provider]} was requested, {row['provider']} obtained"
    if not row["difference"] <= LARGEST_DIFFERENCE:
        return f"differs from the CPU by {row['difference']:.2g} of the largest value; allowed: {LARGEST_DIFFERENCE:g}"
    if row["way"] != "plain" and "no_io_binding" in row["notes"]:
        return f"no IO binding: {row['notes']['no_io_binding']}"
    return ""


def table(document: dict[str, Any]) -> Table:
    """A line for each model and way."""
    result = Table(title=f"{document['gpu'] or 'no GPU'}, ONNX Runtime {document['onnxruntime']}: ms, p50 / p99")
    sizes = [size for size in _SIZES_SHOWN if any(str(size) in row.get("latency_ms", {}) for row in document["rows"])]
    for head in ("model", "way", "provider", "graphs", "difference", *(f"batch {size}" for size in sizes), "GPU MiB"):
        result.add_column(head, justify="left" if head in ("model", "way", "provider", "graphs") else "right")
    for row in document["rows"]:
        if "latency_ms" not in row:
            result.add_row(row["model"], WAYS[row["way"]], row.get("skipped") or row["failure"])
            continue
        times = [row["latency_ms"].get(str(size)) for size in sizes]
        result.add_row(
            row["model"],
            WAYS[row["way"]],
            row["provider"].removesuffix("ExecutionProvider"),
            "yes" if row["cuda_graphs"] else "no",
            f"{row['difference']:.1e}",
            *("" if each is None else f"{each['p50']:.3f} / {each['p99']:.3f}" for each in times),
            str(row.get("gpu_mib", "")),
        )
    return result


def _files(models: Path) -> list[Path]:
    try:
        return [file.path for file in serving_versions(models)]
    except ModelRepositoryError as error:
        raise click.ClickException(str(error)) from error


def _require(provider: str, file: Path) -> None:
    try:
        Runtime(file, provider=provider)
    except ModelLoadError as error:
        raise click.ClickException(f"this machine has nothing to check: {error}") from error


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.CalledProcessError):
        return ""
