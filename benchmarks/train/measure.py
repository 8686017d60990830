"""``make bench-train``: the time of a training step at batch 32, beside the study's own Keras on the same machine.

The three ways take turns, one burst of steps each, so that whatever else the machine does meets them all alike. What
counts are the ratios of the medians; the milliseconds are this machine's.
"""

import json
import platform
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
STEPS = {"lstm": 200, "lstm2": 30, "cnn": 30}  # in one burst: about two seconds
GOALS = {"lstm": 3.5, "lstm2": 3.0, "cnn": 2.0}  # times as fast as Keras


class Worker:
    """A process that trains a burst of steps when told to, and is idle otherwise."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def step_ms(self, model: str, steps: int) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{model} {steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException(f"{' '.join(map(str, self._process.args))} ended; what it said is above")  # type: ignore[arg-type]
        return float(answer)


@contextmanager
def worker(command: list[str | Path]) -> Iterator[Worker]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Worker(process)
        assert process.stdin
        process.stdin.close()


@click.command()
@click.option("--keras-python", type=click.Path(exists=True, path_type=Path), default=Path(".venv-keras/bin/python"))
@click.option("--python", type=click.Path(exists=True, path_type=Path), default=Path(".venv/bin/python"))
@click.option(
    "--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads of the PyTorch ways."
)
@click.option("--repeats", type=click.IntRange(3), default=9, show_default=True, help="Bursts of each way and model.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results.json", show_default=True)
def main(keras_python: Path, python: Path, threads: int, repeats: int, out: Path) -> None:
    """Measure the time of a training step, and write it with the ratios to a JSON file."""
    commands: dict[str, list[str | Path]] = {
        "keras": [keras_python, HERE / "keras_worker.py"],
        "plain": [python, "-m", "benchmarks.train.torch_worker", "plain", str(threads)],
        "hangtag": [python, "-m", "benchmarks.train.torch_worker", "hangtag", str(threads)],
    }
    times: dict[str, dict[str, list[float]]] = {model: {way: [] for way in commands} for model in STEPS}
    with ExitStack() as stack:
        workers = {way: stack.enter_context(worker(command)) for way, command in commands.items()}
        turns = [(model, turn) for turn in range(repeats) for model in STEPS]
        for model, turn in track(turns, "bursts", console=Console(stderr=True)):
            for way in [*workers][turn % 3 :] + [*workers][: turn % 3]:  # each is first as often as the others
                times[model][way].append(workers[way].step_ms(model, STEPS[model]))
    results = {
        "command": "make bench-train",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": _processor(), "threads": threads},
        "versions": {"python": platform.python_version()}
        | _versions(python, "torch")
        | _versions(keras_python, "keras", "tensorflow-cpu"),
        "batch_size": 32,
        "step_ms": times,
        "median_ms": {
            model: {way: round(statistics.median(values), 3) for way, values in ways.items()}
            for model, ways in times.items()
        },
        "times_as_fast_as_keras": {model: _speedup(ways) for model, ways in times.items()},
        "goals": GOALS,
    }
    out.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(_table(results))
    click.echo(f"wrote {out}")


def _speedup(ways: dict[str, list[float]]) -> dict[str, float]:
    """Keras' median over the way's."""
    keras = statistics.median(ways["keras"])
    return {way: round(keras / statistics.median(values), 2) for way, values in ways.items() if way != "keras"}


def _table(results: dict) -> Table:  # type: ignore[type-arg]
    table = Table(
        "model", "Keras", "plain PyTorch", "hangtag", "times as fast as Keras", "goal", title="ms per step at batch 32"
    )
    for model, medians in results["median_ms"].items():
        ratio = results["times_as_fast_as_keras"][model]["hangtag"]
        table.add_row(model, *(f"{value:.1f}" for value in medians.values()), f"{ratio:.2f}", f"{GOALS[model]}")
    return table


def _versions(python: Path, *packages: str) -> dict[str, str]:
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True, check=True)
    return dict(zip([package.removesuffix("-cpu") for package in packages], done.stdout.split(), strict=True))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
