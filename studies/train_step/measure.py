"""``make bench-train``: the time of a training step at batch 32, beside the study's own Keras on the same machine.

All train on the same real images with the same number of threads. They take turns, one burst of steps each, so
that whatever else the machine does meets them all alike. A burst's steps are timed from the end of its first step to
the end of its last, so that what surrounds them, as in Keras' fit(), is not counted. What counts are the ratios of the
medians; the milliseconds are this machine's. How fast it multiplies at most is measured in the same turns.
"""

import json
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hangtag.serving.loadtest.measuring.environment import cpu_model
from hangtag.training.data import fashion_mnist as data
from studies.train_step.worker import worker

HERE = Path(__file__).parent
BATCH_SIZE = 32
STEPS = {"lstm": 200, "lstm-56": 200, "lstm-280": 100, "lstm2": 30, "cnn": 30}  # in one burst: about two seconds
SIDE, PRODUCTS = 2048, 20  # of the matrices whose product tells how fast the machine multiplies; in one burst
WAYS = ("keras", "plain", "compiled", "hangtag")
PRODUCT = "product"
GOALS = {"lstm": 3.5, "lstm2": 3.0, "cnn": 2.0}  # times as fast as Keras


class Machine(TypedDict):
    processor: str
    threads: int  # of each way


class Results(TypedDict):
    """What is written, and what docs/study.md is made from. Ways are keras, plain, compiled and hangtag."""

    command: str
    date: str
    machine: Machine
    versions: dict[str, str]
    batch_size: int
    step_ms: dict[str, dict[str, list[float]]]  # model, way: one value a burst
    median_ms: dict[str, dict[str, float]]
    times_as_fast_as_keras: dict[str, dict[str, float]]
    goals: dict[str, float]
    product_gflops: float  # of two large matrices in bfloat16: billions of additions and multiplications a second


@click.command()
@click.option("--keras-python", type=click.Path(exists=True, path_type=Path), default=Path(".venv-keras/bin/python"))
@click.option("--python", type=click.Path(exists=True, path_type=Path), default=Path(".venv/bin/python"))
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads of each way.")
@click.option("--repeats", type=click.IntRange(3), default=8, show_default=True, help="Bursts of each way and model.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results.json", show_default=True)
def main(keras_python: Path, python: Path, threads: int, repeats: int, data_dir: Path | None, out: Path) -> None:
    """Measure the time of a training step, and write it with the ratios to a JSON file."""
    versions = (
        {"python": platform.python_version()}
        | _versions(python, "torch")
        | _versions(keras_python, "keras", "tensorflow-cpu")
    )
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npz")
        few = data.load(data_dir).train.first(BATCH_SIZE * (max(STEPS.values()) + 1))
        np.savez(images, images=few.images, classes=few.classes)
        commands: dict[str, Sequence[str | Path]] = {
            way: [python, "-m", "studies.train_step.torch_worker", way, str(threads), images]
            for way in (*WAYS[1:], PRODUCT)
        }
        commands["keras"] = [keras_python, HERE / "keras_worker.py", str(threads), images]
        times = _take_turns(commands, repeats)
    products = times.pop(str(SIDE))[PRODUCT]
    results: Results = {
        "command": "make bench-train",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": cpu_model(), "threads": threads},
        "versions": versions,
        "batch_size": BATCH_SIZE,
        "step_ms": times,
        "median_ms": {
            model: {way: round(statistics.median(values), 3) for way, values in ways.items()}
            for model, ways in times.items()
        },
        "times_as_fast_as_keras": {model: _speedup(ways) for model, ways in times.items()},
        "goals": GOALS,
        "product_gflops": round(2 * SIDE**3 / statistics.median(products) / 1e6, 1),
    }
    out.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(_table(results))
    click.echo(f"wrote {out}")


def _take_turns(commands: Mapping[str, Sequence[str | Path]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a step by model and way, one value a burst; of a product by the matrices' side."""
    bursts = {model: (steps, WAYS) for model, steps in STEPS.items()} | {str(SIDE): (PRODUCTS, (PRODUCT,))}
    times: dict[str, dict[str, list[float]]] = {name: {way: [] for way in ways} for name, (_, ways) in bursts.items()}
    with ExitStack() as stack:
        workers = {way: stack.enter_context(worker(command)) for way, command in commands.items()}
        turns = [(name, turn) for turn in range(repeats) for name in bursts]
        for name, turn in track(turns, "bursts", console=Console(stderr=True)):
            steps, ways = bursts[name]
            first = turn % len(ways)  # each is first as often as the others
            for way in ways[first:] + ways[:first]:
                times[name][way].append(workers[way].step_ms(name, steps))
    return times


def _speedup(ways: dict[str, list[float]]) -> dict[str, float]:
    """Keras' median over the way's."""
    keras = statistics.median(ways["keras"])
    return {way: round(keras / statistics.median(values), 2) for way, values in ways.items() if way != "keras"}


def _table(results: Results) -> Table:
    table = Table(
        "model", "Keras", "plain PyTorch", "compiled", "hangtag", "times as fast as Keras", "goal",
        title="ms per step at batch 32",
    )  # fmt: skip
    for model, medians in results["median_ms"].items():
        ratio = results["times_as_fast_as_keras"][model]["hangtag"]
        table.add_row(model, *(f"{value:.1f}" for value in medians.values()), f"{ratio:.2f}", f"{GOALS.get(model, '')}")
    return table


def _versions(python: Path, *packages: str) -> dict[str, str]:
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    try:
        done = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(
            f"{python} has no {' and '.join(packages)}; 'make bench-train' installs what is needed."
        ) from error
    return dict(zip([package.removesuffix("-cpu") for package in packages], done.stdout.split(), strict=True))


if __name__ == "__main__":
    main()
