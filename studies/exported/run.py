"""Compare the speed of each published file in bare ONNX Runtime with PyTorch's and with that of the FP32 file.

The compared implementations take turns, each with several batches, so that other load on the machine slows all of them
alike. A round's result is a ratio of medians, and the final result is the median of the rounds' ratios. Each
implementation has one thread, like an instance of the server. Several threads would busy-wait after their turn, for
about as long as a batch takes, and so slow down the implementation that is measured next.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from hangtag.export.network import LabelScores
from hangtag.export.network_arrays import Pixels
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist
from studies import options, results
from studies.page import Part, made_from, table
from studies.results import Line

FILE, FP32, EAGER, COMPILED = "file", "fp32 file", "PyTorch", "torch.compile"
"""The compared implementations: the file itself, the FP32 file of the same network, and the network in PyTorch."""
Contender = Callable[[Any], object]
"""Answers a batch."""
Times = Mapping[int, Mapping[str, float]]
"""The median time of a batch in milliseconds, by batch size and implementation."""
BATCH_SIZES = (1, 64)
THREADS = 1
_LEAST_TURNS, _MOST_TURNS = 7, 200
_SECONDS = 2.0
"""The time limit in seconds for each batch size. No turn begins after it, unless fewer than _LEAST_TURNS have run."""
_TURN_MS = 5.0
"""A turn ends when its measured batches have taken this many milliseconds."""
TIMINGS = ("eager", "compile")
"""The values of --timing: "eager" compares files with PyTorch in eager mode; "compile" also compares them with
torch.compile, which needs a C++ compiler."""


def measure(path: Path, images: Pixels, served: nn.Module, fp32: Path | None, timing: str) -> Times:
    """Measure the file, and the implementations that it is compared with.

    Args:
        path: The file.
        images: The images for the batches, which are repeated if a batch needs more.
        served: The network in PyTorch.
        fp32: The FP32 file of the same network, if ``path`` is in another precision.
        timing: One of TIMINGS.
    """
    contenders = {FILE: _session(path)} | ({} if fp32 is None else {FP32: _session(fp32)})
    contenders[EAGER] = _network(served)
    batches = {size: np.resize(images, (size, *images.shape[1:])) for size in BATCH_SIZES}
    if timing == "compile" and any(map(shutil.which, ("c++", "g++", "clang++"))):
        contenders[COMPILED] = _network(torch.compile(served, dynamic=False))
        for batch in batches.values():
            contenders[COMPILED](batch)  # the first call compiles
    return {size: interleaved(contenders, batch) for size, batch in batches.items()}


def interleaved(
    contenders: Mapping[str, Contender], batch: Any, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Let the implementations take turns at computing a batch, and return the median milliseconds of each one.

    The first batch of a turn does not count: it can take twice as long as the next batches, because the other
    implementations have displaced the weights from the processor's caches. In a busy server, the weights stay cached.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for number in range(_MOST_TURNS):
        if number >= _LEAST_TURNS and clock() - begin > _SECONDS:
            break
        for name, answer in contenders.items():
            answer(batch)
            turn: list[float] = []
            while sum(turn) < _TURN_MS:
                start = clock()
                answer(batch)
                turn.append((clock() - start) * 1e3)
            times[name] += turn
    return {name: median(milliseconds) for name, milliseconds in times.items()}


def _session(path: Path) -> Contender:
    runtime = Runtime(path, provider="cpu", threads=THREADS)
    (image,) = runtime.signature.inputs
    return lambda batch: runtime.run({image.name: batch})


def _network(network: Callable[..., object]) -> Contender:
    def answer(batch: Pixels) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return answer


RESULTS = Path(__file__).with_name("results.jsonl")
GOALS: dict[str, tuple[int, str, float]] = {
    "lstm": (1, EAGER, 1.5),
    "lstm2": (1, EAGER, 1.5),
    "cnn": (1, EAGER, 1.5),
    "cnn-int8": (64, FP32, 3.0),
    "lstm-int8": (1, FP32, 1.0),
    "lstm2-int8": (1, FP32, 1.0),
}
"""For each model: the batch size, a reference implementation, and the file's least speed-up over that one."""
MAY_LOSE = 0.002
"""The largest allowed loss of test accuracy in a precision other than FP32, as measured by the export."""


@click.command()
@options.MODELS
@click.option("--timing", type=click.Choice(TIMINGS), default="compile", show_default=True)
@options.ROUNDS
@options.OUT
def main(models: Path, timing: str, rounds: int, out: Path | None) -> None:
    """Measure every exported model, and compare the figures with the goals. The machine should do nothing else."""
    torch.set_num_threads(THREADS)
    images = fashion_mnist.load_test().images[:64]
    versions = {"ONNX Runtime": ONNXRUNTIME_VERSION, "PyTorch": torch.__version__}
    lines = [results.conditions(versions) | {"rounds": rounds}]
    entries = {
        entry.name: entry
        for entry in inventory.serving(models)
        if "training" in entry.metadata and entry.metadata["task"] == "single_label"
    }
    times: dict[str, list[Times]] = defaultdict(list)
    for number in range(1, rounds + 1):
        click.echo(f"round {number} of {rounds}", err=True)
        for name, entry in entries.items():
            original = entries.get(name.removesuffix(f"-{entry.precision}"), entry)
            # Random weights are enough, because the time does not depend on them.
            network = build(str(entry.json("training")["config"]["model"]))
            served = LabelScores(network, fashion_mnist.IMAGE, len(fashion_mnist.LABELS)).eval()
            fp32 = None if original is entry else original.path
            times[name].append(measure(entry.path, images, served, fp32, timing))
    lines += [_line(entry, times[name]) for name, entry in entries.items()]
    for text in _tables({line["run"]: line for line in lines[1:]}):
        click.echo(f"{text}\n")
    if out := out or (RESULTS if options.complete("models", "timing") else None):
        results.write(out, lines)
        click.echo(f"wrote {out}")


def _line(entry: Entry, rounds: Sequence[Times]) -> Line:
    """Return a model's line: the times, and whether the model reaches its goal."""
    times = middle(rounds)
    line: Line = {"run": entry.name, "version": entry.version, "median_ms": times}
    if goal := GOALS.get(entry.name):
        size, contender, bound = goal
        line |= {"goal": f"{bound:g}x {contender} at batch {size}", "reached": None}
        if contender in times[size]:
            ratio = times[size][contender] / times[size][FILE]
            line |= {"ratio": ratio, "reached": ratio >= bound}
    if entry.precision != "fp32":
        figures = entry.json("gate")["agreement"]
        line |= {"may_lose": MAY_LOSE, "accuracy_lost": round(figures["pytorch_accuracy"] - figures["accuracy"], 6)}
    return line


def middle(rounds: Sequence[Times]) -> Times:
    """Return the file's median time, and a comparable time for each other implementation.

    Times of different rounds cannot be compared. Therefore each round gives only a ratio: an implementation's time
    divided by the file's time. The comparable time is the median ratio, multiplied by the file's median time.
    """
    return {
        size: {
            name: median(times[size][FILE] for times in rounds)
            * median(times[size][name] / times[size][FILE] for times in rounds)
            for name in contenders
        }
        for size, contenders in rounds[0].items()
    }


def part(path: Path = RESULTS) -> str:
    """Return the text about the measurement, and the tables."""
    models = results.read(path)
    conditions = models.pop("conditions")
    source = (
        f"{made_from(path, conditions)}, each implementation on one thread; the load average was "
        f"{conditions['load_before']:.1f} before the measurement. The figures are medians of {conditions['rounds']} "
        "rounds: milliseconds for a batch and, in brackets, how many times faster the file is. In each round, "
        "the implementations of a row took turns, so compare times within a row rather than between rows:"
    )
    return "\n\n".join([source, *_tables(models)])


def _tables(models: Mapping[str, Line]) -> Iterator[str]:
    """Yield the tables of times and of goals."""
    yield table(("model", "batch", "the file", f"its {FP32}", EAGER, COMPILED), _times(models), right=5)
    yield table(("model", "goal", "measured", "reached"), _goals(models))


def _times(models: Mapping[str, Line]) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        for size, times in model["median_ms"].items():
            cells = (
                f"{_ms(times[contender])} ({times[contender] / times[FILE]:.2f}x)" if contender in times else ""
                for contender in (FP32, EAGER, COMPILED)
            )
            yield f"`{name}` version {model['version']}", str(size), _ms(times[FILE]), *cells


def _goals(models: Mapping[str, Line]) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        if "goal" in model:
            ratio = f"{model['ratio']:.2f}x" if "ratio" in model else ""
            reached = {True: "yes", False: "no", None: "not measured"}[model["reached"]]
            yield f"`{name}`", model["goal"], ratio, reached
        if "may_lose" in model:
            lost, allowed = 100 * model["accuracy_lost"], 100 * model["may_lose"]
            reached = "yes" if lost <= allowed + 1e-6 else "no"
            yield f"`{name}`", f"at most {allowed:.2g} points of accuracy lost", f"{lost:.2f}", reached


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


PARTS = (Part("studies/exported/README.md", part, "speed"),)
