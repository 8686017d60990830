"""Where a training step of `lstm` spends its time, and what other ways to do it take.

The ways take turns, a few steps each, and each is given by the processor time of its fastest burst and of the median:
beside other programs a burst takes longer, but little of that is processor time. hangtag's own step is there twice:
differences of the size of that between the two mean nothing.
"""

import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from hangtag.training.networks.single_label import STUDY_HIDDEN_SIZE
from studies import options, results
from studies.train_step.lstm_ways import BATCH_SIZE, OWN, Batch, Step, own_step, ways

RESULTS = Path(__file__).with_name("profile.jsonl")
_BURST = 3  # steps


def take_turns(steps: Mapping[str, tuple[Step, int]], repeats: int) -> dict[str, list[float]]:
    """Processor milliseconds for 32 images, one value a burst, by way."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step, _ in steps.values():
        for _ in range(_BURST):  # warms up; compiles
            step()
    for _ in track(range(repeats), "bursts", console=Console(stderr=True)):
        for name, (step, size) in steps.items():
            times[name].append(_processor_seconds(step, _BURST) * 1000 * BATCH_SIZE / size)
    return times


@click.command()
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--repeats", type=click.IntRange(1), default=200, show_default=True, help="Bursts of each way.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")), default="bf16", show_default=True)
@click.option("--compile-recurrence", is_flag=True, help="Compare with compiled time steps too, after minutes.")
@options.OUT
def main(threads: int, repeats: int, precision: str, compile_recurrence: bool, out: Path | None) -> None:
    """Profile a training step of lstm, and compare it with other ways to do it.

    The page has it with --compile-recurrence and no other option.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    command = f"python -m studies train_step profile{options.given()}"
    conditions = results.conditions(command, {"PyTorch": torch.__version__})
    lines = [
        conditions | {"threads": threads, "precision": precision, "bursts": repeats},
        {"run": "operators", "rows": list(_operators(own_step(Batch.random(BATCH_SIZE, dtype))))},
        {"run": "products", "rows": list(_products(dtype))},
        {"run": "ways", "rows": list(_ways(take_turns(ways(dtype, compile_recurrence=compile_recurrence), repeats)))},
    ]
    for line in lines[1:]:
        _print(line)
    options.write(out, RESULTS, lines, complete=options.given() == " --compile-recurrence")


def _print(line: results.Line) -> None:
    table = Table(*(heading.replace("_", " ") for heading in line["rows"][0]), title=line["run"])
    for row in line["rows"]:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=100).print(table)


def _ways(times: Mapping[str, list[float]]) -> Iterator[results.Line]:
    """The fastest and the median burst of each way, and its median as a share of hangtag's."""
    own = statistics.median(times[OWN])
    for name, values in times.items():
        median = statistics.median(values)
        yield {"way": name, "fastest_ms": min(values), "median_ms": median, "of_hangtag": median / own}


def _operators(step: Step, steps: int = 30, shown: int = 10) -> Iterator[results.Line]:
    """The operators in which the step spends most of its time, without the operators that they call."""
    for _ in range(_BURST):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:shown]:
        yield {"operator": event.key, "calls": event.count / steps, "share": event.self_cpu_time_total / total}


def _products(dtype: torch.dtype) -> Iterator[results.Line]:
    """How fast the products of one time step are, and a large one: the small ones bound what an LSTM can reach."""
    hidden, large = STUDY_HIDDEN_SIZE, 2048
    shapes = {
        "forwards, each time step": (BATCH_SIZE, hidden, 4 * hidden),
        "backwards, each time step": (BATCH_SIZE, 4 * hidden, hidden),
        "a large one": (large, large, large),
    }
    for name, (rows, inner, columns) in shapes.items():
        one, other = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        operations = 2 * rows * inner * columns
        count = max(1, 10**9 // operations)
        seconds = min(_processor_seconds(partial(torch.mm, one, other), count) for _ in range(20))
        yield {"product": name, "shape": f"{rows} x {inner} x {columns}", "gflops": operations / seconds / 1e9}


def _processor_seconds(work: Step, count: int) -> float:
    """The processor time of one call, over several."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


if __name__ == "__main__":
    main()
