"""Times a training step at batch 32 in hangtag, plain PyTorch and the study's own Keras, on one machine.

All train on the same real images with the same number of threads. They take turns, a burst of steps each, so that other
load on the machine slows all of them alike. A burst is timed from the end of its first step to the end of its last, so
that preparations such as those of Keras' fit() are not counted. The ratios of the medians are what counts; the
milliseconds are this machine's. The machine's largest rate of multiplications is measured in the same turns.
"""

import platform
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hangtag.training.data import fashion_mnist
from studies import results
from studies.train_step.worker import worker

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
BATCH_SIZE = 32
STEPS = {"lstm": 200, "lstm-56": 200, "lstm-280": 100, "lstm2": 30, "cnn": 30}  # in a burst of about two seconds
SIDE, PRODUCTS = 2048, 20  # of the square matrices that show how fast the machine multiplies; products in a burst
WAYS = ("keras", "plain", "compiled", "hangtag")
PRODUCT = "product"
GOALS = {"lstm": 3.5, "lstm2": 3.0, "cnn": 2.0}  # times as fast as Keras


@click.command()
@click.option("--keras-python", type=click.Path(exists=True, path_type=Path), default=Path(".venv-keras/bin/python"))
@click.option("--python", type=click.Path(exists=True, path_type=Path), default=Path(".venv/bin/python"))
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads of each way.")
@click.option("--repeats", type=click.IntRange(3), default=8, show_default=True, help="Bursts of each way and model.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(keras_python: Path, python: Path, threads: int, repeats: int, data_dir: Path | None, out: Path) -> None:
    """Measure the time of a training step on a machine that does nothing else.

    Needs an environment with Keras: make .venv-keras/.keras
    """
    versions = (
        {"python": platform.python_version()}
        | _versions(python, "torch")
        | _versions(keras_python, "keras", "tensorflow-cpu")
    )
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npz")
        split = fashion_mnist.load(data_dir).train.first(BATCH_SIZE * (max(STEPS.values()) + 1))
        np.savez(images, images=split.images, classes=split.classes)
        commands: dict[str, Sequence[str | Path]] = {
            way: [python, "-m", "studies.train_step.torch_worker", way, str(threads), images]
            for way in (*WAYS[1:], PRODUCT)
        }
        commands["keras"] = [keras_python, HERE / "keras_worker.py", str(threads), images]
        times = _take_turns(commands, repeats)
    products = times.pop(str(SIDE))[PRODUCT]
    conditions = results.conditions("python -m studies train_step run", versions) | {
        "threads": threads,
        "batch_size": BATCH_SIZE,
        "product_gflops": 2 * SIDE**3 / statistics.median(products) / 1e6,  # additions and multiplications
    }
    lines = [_line(model, ways) for model, ways in times.items()]
    results.write(out, [conditions, *lines])
    Console().print(_table(lines))
    click.echo(f"wrote {out}")


def _line(model: str, ways: Mapping[str, Sequence[float]]) -> results.Line:
    """A model's line: the median of each way's bursts, and Keras' median over each other way's."""
    medians = {way: statistics.median(values) for way, values in ways.items()}
    return {
        "run": model,
        "median_ms": medians,
        "times_as_fast_as_keras": {
            way: round(medians["keras"] / median, 2) for way, median in medians.items() if way != "keras"
        },
        "goal": GOALS.get(model),
    }


def _take_turns(commands: Mapping[str, Sequence[str | Path]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of a step by model and way, one value a burst; those of a matrix product are under its side."""
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


def _table(lines: Sequence[results.Line]) -> Table:
    table = Table(
        "model", "Keras", "plain PyTorch", "compiled", "hangtag", "times as fast as Keras", "goal",
        title="ms per step at batch 32",
    )  # fmt: skip
    for line in lines:
        ratio = line["times_as_fast_as_keras"]["hangtag"]
        medians = (f"{value:.1f}" for value in line["median_ms"].values())
        table.add_row(line["run"], *medians, f"{ratio:.2f}", f"{line['goal'] or ''}")
    return table


def _versions(python: Path, *packages: str) -> dict[str, str]:
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    try:
        finished = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(
            f"{python} has no {' and '.join(packages)}; 'make .venv/.dev .venv-keras/.keras' installs what is needed."
        ) from error
    return dict(zip([package.removesuffix("-cpu") for package in packages], finished.stdout.split(), strict=True))
