"""``make bench-export``: each published model beside PyTorch and its own FP32 file, in bare ONNX Runtime.

The contenders take turns, one batch each, so that whatever else the machine does meets them all alike. What counts are
the ratios of the medians. Where a goal is missed, ONNX Runtime's profiler says in which nodes the time goes.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from hangtag.export.gate import speed
from hangtag.export.gate.speed import EAGER, FP32, TIMINGS, Speed
from hangtag.export.network.served_network import Classifier, ServedNetwork
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.loadtest.measuring.environment import cpu_model
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist as data
from studies.exported import profile

HERE = Path(__file__).parent
GOALS: dict[str, tuple[int, str, float]] = {
    "lstm": (1, EAGER, 1.5),
    "lstm2": (1, EAGER, 1.5),
    "cnn": (1, EAGER, 1.5),
    "cnn-int8": (64, FP32, 3.0),
    "lstm-int8": (1, FP32, 1.0),
    "lstm2-int8": (1, FP32, 1.0),
}
"""At which batch size a model must be how many times faster than which contender."""
MAY_LOSE = {"cnn-int8": 0.002}
"""How much of PyTorch's test accuracy, by the gate's own figures, a model may lose at most."""


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=Path("models"), show_default=True)
@click.option("--timing", type=click.Choice(TIMINGS[1:]), default="compile", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results.json", show_default=True)
def main(models: Path, timing: str, out: Path) -> None:
    """Time every model that was exported here, and write the medians and the goals to a JSON file."""
    images = data.load_test().images[:64]
    console = Console()
    written: dict[str, Any] = {
        "command": "make bench-export",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": cpu_model(),
            "cpus": len(os.sched_getaffinity(0)),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"ONNX Runtime": ONNXRUNTIME_VERSION, "PyTorch": torch.__version__},
        "models": {},
    }
    for entry, fp32 in _entries(models):
        measured = speed.measure(entry.path, images, _network(entry), fp32, timing)
        assert measured is not None
        console.print(_table(entry.name, measured))
        told: dict[str, Any] = {"version": entry.version} | measured.figures
        if goal := GOALS.get(entry.name):
            told |= _judge(entry, measured, goal, console)
        if entry.name in MAY_LOSE:
            told |= _judge_accuracy(entry, console)
        written["models"][entry.name] = told
    out.write_text(json.dumps(written, indent=1) + "\n")
    console.print(f"wrote {out}; load average before: {written['machine']['load_before']}")


def _entries(models: Path) -> Iterator[tuple[Entry, Path | None]]:
    """Every classifier that was exported here, and the same network's FP32 file where it is in another precision."""
    entries = {entry.name: entry for entry in inventory.latest(models)}
    for name, entry in entries.items():
        if "training" not in entry.metadata or entry.metadata["task"] != "single_label":
            continue
        original = entries.get(name.removesuffix(f"-{entry.precision}"))
        yield entry, original.path if original is not None and original is not entry else None


def _network(entry: Entry) -> ServedNetwork:
    """The network in PyTorch, fresh: what weights it has does not matter to the time."""
    return Classifier(build(str(entry.json("training")["config"]["model"]))).eval()


def _judge(entry: Entry, measured: Speed, goal: tuple[int, str, float], console: Console) -> dict[str, Any]:
    """Whether the goal is reached; where it is not, the nodes that take the time."""
    size, contender, wanted = goal
    ratio = measured.ratio(contender, size)
    said = f"{wanted:g}x {contender} at batch {size}"
    if ratio is None:
        console.print(f"  goal {said}: not measured, {contender} is missing\n")
        return {"goal": said, "reached": None}
    console.print(f"  goal {said}: {'reached' if ratio >= wanted else 'MISSED'}, {ratio:.2f}x\n")
    told: dict[str, Any] = {"goal": said, "ratio": round(ratio, 3), "reached": ratio >= wanted}
    if ratio < wanted:
        nodes = profile.by_node(entry.path, size)
        for node in nodes[:8]:
            console.print(f"    {node.share:6.1%}  {node.microseconds:9.1f} µs  {node.operator:<24} {node.name}")
        told["nodes"] = [vars(node) for node in nodes[:8]]
    return told


def _judge_accuracy(entry: Entry, console: Console) -> dict[str, Any]:
    """Whether the file is nearly as accurate as PyTorch, in shares of the test set."""
    figures = entry.json("gate")["agreement"]
    lost, allowed = figures["pytorch_accuracy"] - figures["accuracy"], MAY_LOSE[entry.name]
    said = "reached" if lost <= allowed + 1e-9 else "MISSED"  # of the subtraction
    console.print(f"  goal at most {100 * allowed:.2g} points of accuracy lost: {said}, {100 * lost:.2f}\n")
    return {"may_lose": allowed, "accuracy_lost": round(lost, 6)}


def _table(name: str, measured: Speed) -> Table:
    table = Table(title=f"{name}, on one thread", box=None, title_justify="left")
    table.add_column("contender")
    for size in measured.milliseconds:
        table.add_column(f"batch {size}, ms", justify="right")
        table.add_column("file is faster by", justify="right")
    first = next(iter(measured.milliseconds.values()))
    for contender in first:
        cells = []
        for size, times in measured.milliseconds.items():
            cells += [f"{times[contender]:.3f}", f"{measured.ratio(contender, size):.2f}x"]
        table.add_row(contender, *cells)
    return table


if __name__ == "__main__":
    main()
