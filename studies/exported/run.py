"""Times each published model, PyTorch and the model's FP32 file against each other, in bare ONNX Runtime.

The contenders take turns of several batches, so that other load slows all of them alike. The ratios of the
medians are what counts, and of these the median of several rounds over all models. Where a goal is missed, ONNX
Runtime's profiler shows which nodes take the time.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hangtag.export.gate import speed
from hangtag.export.gate.speed import EAGER, FILE, FP32, TIMINGS, Speed
from hangtag.export.network import ServedNetwork, SingleLabel
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist
from studies import options, results
from studies.exported import profile

RESULTS = Path(__file__).with_name("results.jsonl")
GOALS: dict[str, tuple[int, str, float]] = {
    "lstm": (1, EAGER, 1.5),
    "lstm2": (1, EAGER, 1.5),
    "cnn": (1, EAGER, 1.5),
    "cnn-int8": (64, FP32, 3.0),
    "lstm-int8": (1, FP32, 1.0),
    "lstm2-int8": (1, FP32, 1.0),
}
"""Model -> batch size, contender, and how many times faster than this contender the file should be."""
ACCURACY_GOALS = {"cnn-int8": 0.002, "lstm-int8": 0.002, "lstm2-int8": 0.002}
"""Model -> how much of PyTorch's test accuracy, by the export's own figures, it may lose at most."""


@click.command()
@options.MODELS
@click.option("--timing", type=click.Choice(TIMINGS[1:]), default="compile", show_default=True)
@options.ROUNDS
@options.OUT
def main(models: Path, timing: str, rounds: int, out: Path | None) -> None:
    """Time every model that was exported here, and judge the goals. Needs a machine that does nothing else."""
    images = fashion_mnist.load_test().images[:64]
    console = Console()
    versions = {"ONNX Runtime": ONNXRUNTIME_VERSION, "PyTorch": torch.__version__}
    lines = [results.conditions(f"python -m studies exported run{options.given()}", versions) | {"rounds": rounds}]
    entries = list(_entries(models))
    speeds: dict[str, list[Speed]] = {entry.name: [] for entry, _ in entries}
    for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
        for entry, fp32 in entries:
            one = speed.measure(entry.path, images, _network(entry), fp32, timing)
            assert one is not None
            speeds[entry.name].append(one)
    for entry, _ in entries:
        measured = middle(speeds[entry.name])
        console.print(_table(entry.name, measured))
        line: results.Line = {"run": entry.name, "version": entry.version, "median_ms": measured.figures["median_ms"]}
        if goal := GOALS.get(entry.name):
            line |= _judge(entry, measured, goal, console)
        if entry.name in ACCURACY_GOALS:
            line |= _judge_accuracy(entry, console)
        lines.append(line)
    console.print(f"load average before: {lines[0]['load_before']:.2f}; now: {os.getloadavg()[0]:.2f}")
    options.write(out, RESULTS, lines, complete=not options.given())


def middle(speeds: Sequence[Speed]) -> Speed:
    """The medians of several measurements: of the file's time, and of each contender's ratio to it.

    A contender's time is the file's times that ratio, since ratios within a measurement are what can be compared.
    """
    first = speeds[0]
    milliseconds: dict[int, dict[str, float]] = {}
    for size, times in first.milliseconds.items():
        own = median(one.milliseconds[size][FILE] for one in speeds)
        ratios = {name: median(one.ratio(name, size) or 0 for one in speeds) for name in times}
        milliseconds[size] = {name: own * ratio for name, ratio in ratios.items()}
    return Speed(milliseconds, first.missing)


def _entries(models: Path) -> Iterator[tuple[Entry, Path | None]]:
    """Every classifier that was exported here; for one in another precision also the same network's FP32 file."""
    entries = {entry.name: entry for entry in inventory.serving(models)}
    for name, entry in entries.items():
        if "training" not in entry.metadata or entry.metadata["task"] != "single_label":
            continue
        original = entries.get(name.removesuffix(f"-{entry.precision}"))
        yield entry, original.path if original is not None and original is not entry else None


def _network(entry: Entry) -> ServedNetwork:
    """The network in PyTorch with random weights, whose values do not change the time."""
    return SingleLabel(
        build(str(entry.json("training")["config"]["model"])), fashion_mnist.IMAGE, len(fashion_mnist.LABELS)
    ).eval()


def _judge(entry: Entry, measured: Speed, goal: tuple[int, str, float], console: Console) -> results.Line:
    """Whether the goal is reached; where it is missed, also the nodes that take most time."""
    size, contender, bound = goal
    ratio = measured.ratio(contender, size)
    text = f"{bound:g}x {contender} at batch {size}"
    if ratio is None:
        console.print(f"  goal {text}: not measured, {contender} is missing\n")
        return {"goal": text, "reached": None}
    console.print(f"  goal {text}: {'reached' if ratio >= bound else 'MISSED'}, {ratio:.2f}x\n")
    line: results.Line = {"goal": text, "ratio": ratio, "reached": ratio >= bound}
    if ratio < bound:
        nodes = profile.by_node(entry.path, size)[:8]
        for node in nodes:
            console.print(f"    {node.share:6.1%}  {node.microseconds:9.1f} µs  {node.operator:<24} {node.name}")
        line["nodes"] = [vars(node) for node in nodes]
    return line


def _judge_accuracy(entry: Entry, console: Console) -> results.Line:
    """The accuracy that the file loses against PyTorch, as a share of the test set, and the share that it may lose."""
    figures = entry.json("gate")["agreement"]
    lost, allowed = figures["pytorch_accuracy"] - figures["accuracy"], ACCURACY_GOALS[entry.name]
    verdict = "reached" if lost <= allowed + 1e-9 else "MISSED"  # 1e-9: the subtraction's rounding error
    console.print(f"  goal at most {100 * allowed:.2g} points of accuracy lost: {verdict}, {100 * lost:.2f}\n")
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
