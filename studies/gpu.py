"""Check each model on a GPU: run it in several ways, compare its answers with the CPU's, and measure the latency.

Each measurement runs in a separate process, because a GPU error may end a process.
"""

import json
import multiprocessing
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

from hangtag.serving.model_repository import ModelRepositoryError, serving_versions
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.runtime.inference_session import BY_NAME, VERSION, Tensors, random_batch
from hangtag.serving.server.runtime.io_binding import bucket_sizes, no_fixed_shapes_because
from hangtag.serving.server.runtime.session import Runtime
from studies import options
from studies.page import table

WAYS = {"plain": "session.run", "bound": "IO binding", "graphs": "CUDA graphs"}
_WARM_UP = 5


def measure(file: Path, way: str, provider: str, sizes: Sequence[int], runs: int) -> dict[str, Any]:
    """Measure a model in one of WAYS, and return the figures, or {"skipped": reason}.

    Args:
        file: The model's file.
        way: A key of WAYS.
        provider: The execution provider, as for `hangtag serve --provider`.
        sizes: Batch sizes, ascending.
        runs: The number of measurements of each batch size.
    """
    before = _gpu_mib()
    runtime = Runtime(file, provider=provider)
    if reason := no_fixed_shapes_because(runtime.signature):
        return {"skipped": reason}
    runtime.warm_up([sizes[0], sizes[-1]])
    if way != "plain":
        runtime.use_io_binding(sizes[-1], instances=1, cuda_graphs="on" if way == "graphs" else "off")
    cpu = Runtime(file, provider="cpu", threads=usable_cpus())
    batches = {size: random_batch(runtime.signature, size, seed=size) for size in sizes}
    figures: dict[str, Any] = {
        "provider": runtime.provider,
        "cuda_graphs": runtime.cuda_graphs,
        "notes": runtime.notes,
        "difference": max(_difference(runtime.run(batch), cpu.run(batch)) for batch in batches.values()),
        "latency_ms": {str(size): _latency(runtime, batch, runs) for size, batch in batches.items()},
    }
    if before is not None:
        figures["gpu_mib"] = (_gpu_mib() or before) - before
    return figures


def nvidia_smi(query: str) -> str | None:
    """Return nvidia-smi's output, which has a line for each GPU; None if nvidia-smi does not work."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _gpu_mib() -> int | None:
    """Return the memory that all processes use on all GPUs."""
    used = nvidia_smi("memory.used")
    return None if used is None else sum(int(line) for line in used.split())


def _difference(got: Tensors, right: Tensors) -> float:
    """Return the largest difference between two answers, as a share of the largest value in the output."""
    shares = []
    for name, array in right.items():
        expected = array.astype(np.float64)
        scale = float(np.abs(expected).max(initial=0)) or 1.0
        shares.append(float(np.abs(got[name].astype(np.float64) - expected).max(initial=0)) / scale)
    return max(shares)


def _latency(runtime: Runtime, batch: Tensors, runs: int) -> dict[str, float]:
    times = []
    for _ in range(_WARM_UP + runs):
        started = time.perf_counter()
        runtime.run(batch)
        times.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(times[_WARM_UP:], [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}


LARGEST_DIFFERENCE = 0.01
"""The largest allowed difference between the GPU's and the CPU's answers, as a share of an output's largest value. A
GPU may round the factors of a product to mantissas of ten bits (TF32)."""
_SIZES_SHOWN = ("1", "8", "64")


@click.command()
@options.MODELS
@click.option("--provider", type=click.Choice(list(BY_NAME)), default="cuda", show_default=True)
@click.option("--largest", type=click.IntRange(1, 4096), default=64, show_default=True, help="The largest batch.")
@click.option(
    "--runs", type=click.IntRange(1), default=200, show_default=True, help="The number of measurements per batch size."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/gpu-check.json"), show_default=True)
def main(models: Path, provider: str, largest: int, runs: int, out: Path) -> None:
    """Check and measure every model of a repository on this machine's GPU.

    The exit code is 1 if a check fails. With --provider cpu, the command runs on a machine without a GPU, as a test of
    the command itself.
    """
    try:
        files = serving_versions(models)
        Runtime(files[0].path, provider=provider)
    except (ModelRepositoryError, ModelLoadError) as error:
        raise click.ClickException(f"no model runs on this machine: {error}") from error
    rows: list[dict[str, Any]] = []
    for file in files:
        for way, name in WAYS.items():
            click.echo(f"{file.name}: {name}", err=True)
            row: dict[str, Any] = {"model": file.name, "way": way}
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                measured = process.submit(measure, file.path, way, provider, bucket_sizes(largest), runs)
                if failure := measured.exception():
                    row["failure"] = f"{type(failure).__name__}: {failure}"
                else:
                    row |= measured.result()
            rows.append(row | {"problem": problem(row, BY_NAME[provider])})
    gpu = (nvidia_smi("name,driver_version") or "no GPU").strip().replace("\n", "; ")
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": gpu,
        "onnxruntime": VERSION,
    }
    document |= {"provider_asked": provider, "largest_difference": LARGEST_DIFFERENCE, "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(f"{gpu}, ONNX Runtime {VERSION}: ms, p50 / p99\n\n{_table(rows)}\n")
    for row in rows:
        for note, reason in row.get("notes", {}).items():
            click.echo(f"{row['model']}, {WAYS[row['way']]}: {note}: {reason}")
    click.echo(f"wrote {out}")
    if problems := [f"{row['model']}, {WAYS[row['way']]}: {row['problem']}" for row in rows if row["problem"]]:
        raise click.ClickException("\n".join(problems))


def problem(row: dict[str, Any], provider: str) -> str:
    """Return the check that failed, or an empty text. A CUDA graph that cannot be captured is not a failure."""
    if "failure" in row:
        return str(row["failure"])
    if "skipped" in row:
        return ""
    if row["provider"] != provider:
        return f"{provider} was requested, but the session uses {row['provider']}"
    if not row["difference"] <= LARGEST_DIFFERENCE:
        return f"differs from the CPU by {row['difference']:.2g} of the largest value; allowed: {LARGEST_DIFFERENCE:g}"
    if row["way"] != "plain" and "no_io_binding" in row["notes"]:
        return f"no IO binding: {row['notes']['no_io_binding']}"
    return ""


def _table(rows: list[dict[str, Any]]) -> str:
    """Return a table with a row for each model and each of WAYS."""
    sizes = [size for size in _SIZES_SHOWN if any(size in row.get("latency_ms", {}) for row in rows)]
    head = ("model", "way", "provider", "graphs", "difference", *(f"batch {size}" for size in sizes), "GPU MiB")
    lines = []
    for row in rows:
        cells = [row["model"], WAYS[row["way"]]]
        if "latency_ms" in row:
            times = [row["latency_ms"].get(size) for size in sizes]
            cells += [row["provider"].removesuffix("ExecutionProvider"), "yes" if row["cuda_graphs"] else "no"]
            cells += [f"{row['difference']:.1e}"]
            cells += ["" if each is None else f"{each['p50']:.3f} / {each['p99']:.3f}" for each in times]
            cells += [str(row.get("gpu_mib", ""))]
        else:
            cells += [row.get("skipped") or row["failure"]]
        lines.append(cells)
    return table(head, lines)
