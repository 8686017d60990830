"""Compare the speed of each published model, in bare ONNX Runtime, with PyTorch and with the model's FP32 file.

The contenders take turns of several batches on one thread, so that other load on the machine slows all of them alike. A
round's result is a ratio of medians, and the final result is the median of the rounds' ratios. If a model misses a
goal, ONNX Runtime's profiler shows its slowest nodes.
"""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import click
import numpy as np
import onnxruntime
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
from studies.exported.timing import BATCH_SIZES, FILE, FP32, THREADS, Contender, Speed, interleaved
from studies.page import Part, made_from, table
from studies.results import Line

EAGER, COMPILED = "PyTorch", "torch.compile"
TIMINGS = ("eager", "compile")
"""The values of --timing: "eager" compares files with PyTorch in eager mode; "compile" also compares them with
torch.compile, which needs a C++ compiler."""


def measure(path: Path, images: Pixels, served: nn.Module, fp32: Path | None, timing: str) -> Speed:
    """Time the file and its contenders.

    Args:
        path: The file.
        images: The images of the batches, which are repeated if a batch needs more.
        served: The network in PyTorch.
        fp32: The FP32 file of the same network, if ``path`` is in another precision.
        timing: One of TIMINGS.
    """
    contenders = {FILE: _session(path)} | ({} if fp32 is None else {FP32: _session(fp32)})
    with _pytorch_threads():
        contenders[EAGER] = _network(served)
        if timing == "compile" and any(map(shutil.which, ("c++", "g++", "clang++"))):
            contenders[COMPILED] = _compiled(served, images)
        batches = {size: np.resize(images, (size, *images.shape[1:])) for size in BATCH_SIZES}
        return Speed({size: interleaved(contenders, batch) for size, batch in batches.items()})


@contextmanager
def _pytorch_threads() -> Iterator[None]:
    """Let PyTorch use THREADS threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _session(path: Path) -> Contender:
    runtime = Runtime(path, provider="cpu", threads=THREADS)
    (image,) = runtime.signature.inputs
    return lambda batch: runtime.run({image.name: batch})


def _network(network: Callable[..., object]) -> Contender:
    def answer(batch: Pixels) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return answer


def _compiled(served: nn.Module, images: Pixels) -> Contender:
    answer = _network(torch.compile(served, dynamic=False))
    for size in BATCH_SIZES:
        answer(np.resize(images, (size, *images.shape[1:])))
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
"""By model: a batch size, a contender, and the minimum ratio of the contender's time to the file's time."""
MAY_LOSE = 0.002
"""The largest allowed loss of test accuracy in a precision other than FP32, as measured by the export."""
_BATCHES, _NODES = 50, 8
"""The number of batches to profile, and the number of nodes to list."""


@click.command()
@options.MODELS
@click.option("--timing", type=click.Choice(TIMINGS), default="compile", show_default=True)
@options.ROUNDS
@options.OUT
def main(models: Path, timing: str, rounds: int, out: Path | None) -> None:
    """Measure every exported model, and compare the figures with the goals. The machine should do nothing else."""
    images = fashion_mnist.load_test().images[:64]
    versions = {"ONNX Runtime": ONNXRUNTIME_VERSION, "PyTorch": torch.__version__}
    lines = [results.conditions(f"python -m studies exported run{options.given()}", versions) | {"rounds": rounds}]
    entries = {
        entry.name: entry
        for entry in inventory.serving(models)
        if "training" in entry.metadata and entry.metadata["task"] == "single_label"
    }
    speeds: dict[str, list[Speed]] = defaultdict(list)
    for number in range(1, rounds + 1):
        click.echo(f"round {number} of {rounds}", err=True)
        for name, entry in entries.items():
            original = entries.get(name.removesuffix(f"-{entry.precision}"), entry)
            # Random weights are enough, because the time does not depend on them.
            network = build(str(entry.json("training")["config"]["model"]))
            served = LabelScores(network, fashion_mnist.IMAGE, len(fashion_mnist.LABELS)).eval()
            fp32 = None if original is entry else original.path
            speeds[name].append(measure(entry.path, images, served, fp32, timing))
    lines += [_line(entry, speeds[name]) for name, entry in entries.items()]
    for text in _tables({line["run"]: line for line in lines[1:]}):
        click.echo(f"{text}\n")
    if out := out or (RESULTS if options.complete("models", "timing") else None):
        results.write(out, lines)
        click.echo(f"wrote {out}")


def _line(entry: Entry, speeds: Sequence[Speed]) -> Line:
    """Return a model's line: the medians, whether the model reaches its goal, and its slowest nodes if it does not."""
    measured = middle(speeds)
    line: Line = {"run": entry.name, "version": entry.version, "median_ms": {}}
    for size, times in measured.milliseconds.items():
        line["median_ms"][str(size)] = {contender: round(value, 4) for contender, value in times.items()}
    if goal := GOALS.get(entry.name):
        size, contender, bound = goal
        ratio = measured.ratio(contender, size)
        line["goal"], line["reached"] = f"{bound:g}x {contender} at batch {size}", None
        if ratio is not None:
            line |= {"ratio": ratio, "reached": ratio >= bound}
            if ratio < bound:
                line["nodes"] = slowest_nodes(entry.path, size)
    if entry.precision != "fp32":
        figures = entry.json("gate")["agreement"]
        line |= {"may_lose": MAY_LOSE, "accuracy_lost": round(figures["pytorch_accuracy"] - figures["accuracy"], 6)}
    return line


def middle(speeds: Sequence[Speed]) -> Speed:
    """Return the median of the file's times, and a time for each contender from the median of its ratios to the file.

    A contender's time is the file's time multiplied by that median ratio, because only times within a round can be
    compared.
    """
    first = speeds[0]
    milliseconds: dict[int, dict[str, float]] = {}
    for size, times in first.milliseconds.items():
        own = median(one.milliseconds[size][FILE] for one in speeds)
        milliseconds[size] = {name: own * median(one.ratio(name, size) or 0 for one in speeds) for name in times}
    return Speed(milliseconds)


def slowest_nodes(path: Path, batch_size: int) -> list[Line]:
    """Return the slowest nodes of the fused graph on one thread, with median microseconds per batch and share of time.

    Args:
        path: An ONNX file with one input, UINT8 [batch, height, width].
        batch_size: The number of images of random pixels in a batch.
    """
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        session_options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
        (image,) = session.get_inputs()
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *image.shape[1:]), dtype=np.uint8)
        for _ in range(_BATCHES):
            session.run(None, {image.name: pixels})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]].append(event["dur"])
    medians = {node: median(values) for node, values in times.items()}
    slowest = sorted(medians.items(), key=lambda node: -node[1])[:_NODES]
    return [
        {"name": name, "operator": operator, "microseconds": each, "share": each / sum(medians.values())}
        for (name, operator), each in slowest
    ]


def part(path: Path = RESULTS) -> str:
    """Return the text about the measurement, and the tables."""
    models = results.read(path)
    conditions = models.pop("conditions")
    source = (
        f"{made_from(path, conditions)}, each contender on one thread; the load average before was "
        f"{conditions['load_before']:.1f}. The figures are milliseconds for a batch and, in brackets, how many times "
        f"faster the file is: the medians of {conditions['rounds']} rounds. In each round, the contenders of a row "
        "took turns, so compare times within a row rather than between rows:"
    )
    return "\n\n".join([source, *_tables(models)])


def _tables(models: Mapping[str, Line]) -> Iterator[str]:
    """Yield the tables of times and of goals, and the tables of the slowest nodes of models that miss their goal."""
    yield table(("model", "batch", "the file", f"its {FP32}", EAGER, COMPILED), _times(models), right=5)
    yield table(("model", "goal", "measured", "reached"), _goals(models))
    for name, model in models.items():
        if model.get("nodes"):
            yield f"The slowest nodes of `{name}` on one thread:"
            rows = [
                (f"`{node['name']}`", node["operator"], f"{node['microseconds']:,.0f}", f"{node['share']:.1%}")
                for node in model["nodes"]
            ]
            yield table(("node", "operator", "µs", "share"), rows, right=2)


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
