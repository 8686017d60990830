"""Where a training step of `lstm` spends its time, and what other ways to do it take.

The ways take turns, a few steps each, and each is given by the processor time of its fastest burst and of the median:
beside other programs a burst takes longer, but little of that is processor time. hangtag's own step is there twice:
differences of the size of that between the two mean nothing.
"""

import statistics
import time
from collections.abc import Mapping
from functools import partial

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from hangtag.training.networks.single_label import STUDY_HIDDEN_SIZE
from studies.train_step.lstm_ways import BATCH_SIZE, OWN, Batch, Step, own_step, ways

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
def main(threads: int, repeats: int, precision: str, compile_recurrence: bool) -> None:
    """Profile a training step of lstm, and compare it with other ways to do it.

    Records nothing.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    own = own_step(Batch.random(BATCH_SIZE, dtype))
    console = Console(width=100)
    console.print(_operators(own))
    console.print(_products(dtype))
    times = take_turns(ways(dtype, compile_recurrence=compile_recurrence), repeats)
    own_median = statistics.median(times[OWN])
    table = Table("way", "fastest", "median", "of hangtag's median", title="processor ms for 32 images")
    for name, values in times.items():
        median = statistics.median(values)
        table.add_row(name, f"{min(values):.2f}", f"{median:.2f}", f"{median / own_median:.0%}")
    console.print(table)


def _operators(step: Step, steps: int = 30, shown: int = 10) -> Table:
    """The operators in which the step spends most of its time, without the operators that they call."""
    for _ in range(_BURST):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    table = Table("operator", "calls a step", "share of the time", title=f"{steps} steps under torch.profiler")
    for event in events[:shown]:
        table.add_row(event.key, f"{event.count / steps:g}", f"{event.self_cpu_time_total / total:.0%}")
    return table


def _products(dtype: torch.dtype) -> Table:
    """How fast the products of one time step are, and a large one: the small ones bound what an LSTM can reach."""
    hidden, large = STUDY_HIDDEN_SIZE, 2048
    shapes = {
        "forwards, each time step": (BATCH_SIZE, hidden, 4 * hidden),
        "backwards, each time step": (BATCH_SIZE, 4 * hidden, hidden),
        "a large one": (large, large, large),
    }
    table = Table("product", "rows x inner x columns", "billion operations a second", title="matrix products")
    for name, (rows, inner, columns) in shapes.items():
        one, other = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        operations = 2 * rows * inner * columns
        count = max(1, 10**9 // operations)
        seconds = min(_processor_seconds(partial(torch.mm, one, other), count) for _ in range(20))
        table.add_row(name, f"{rows} x {inner} x {columns}", f"{operations / seconds / 1e9:.0f}")
    return table


def _processor_seconds(work: Step, count: int) -> float:
    """The processor time of one call, over several."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


if __name__ == "__main__":
    main()
