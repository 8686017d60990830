"""A worker process that trains in PyTorch: with hangtag's own training loop, or with a loop written by hand.

Its arguments are the way to train, the number of threads, and a file of images and classes. Each line on stdin names a
model and a number of steps; each line on stdout is the milliseconds of a step.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hangtag.training.catalog import build, recipe_for
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Split
from hangtag.training.loop import train as loop
from hangtag.training.processes import keep_freed_memory
from hangtag.training.progress import Observer, StepProgress
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run

BATCH_SIZE = 32


class StepTimes(Observer):
    """Records when each step ended. Time before an epoch's first step and after its last belongs to no step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, progress: StepProgress) -> None:
        self.ends.append(time.perf_counter())


def hangtag(name: str, steps: int, threads: int, split: Split) -> float:
    """Times the second epoch of a run of `hangtag train`'s own loop, with bfloat16."""
    keep_freed_memory()  # as the command does
    few = split.first(BATCH_SIZE)
    config = RunConfig(
        model=name,
        recipe=replace(recipe_for("study", name), epochs=2),
        seed=0,
        data_digest="not compared here",
        limit=BATCH_SIZE * (steps + 1),
        precision="bf16",
        threads=threads,
        device="cpu",
    )
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            config, replace(fashion_mnist.load(), train=split, validation=few, test=few), Run(Path(folder)), times
        )
    return per_step_ms(times.ends[steps + 1 :])


def plain(name: str, steps: int, threads: int, split: Split) -> float:
    """Trains in FP32 with the default memory layout and PyTorch's default Adam."""
    torch.set_num_threads(threads)
    model = build(name)
    return _by_hand(model, torch.optim.Adam(model.parameters()), steps, split, torch.float32)


_compiled: dict[str, tuple[Callable[[Tensor], Tensor], torch.optim.Optimizer]] = {}


def compiled(name: str, steps: int, threads: int, split: Split) -> float:
    """Adds torch.compile to what hangtag's loop does. A network is compiled in the first epoch of its first burst."""
    torch.set_num_threads(threads)
    if name not in _compiled:
        model = build(name).to(torch.device("cpu"), memory_format=torch.channels_last)  # type: ignore[call-overload]
        _compiled[name] = torch.compile(model), torch.optim.Adam(model.parameters(), fused=True)
    return _by_hand(*_compiled[name], steps, split, torch.bfloat16)


def product(side: str, steps: int, threads: int, split: Split) -> float:  # noqa: ARG001  same parameters as the other ways
    """Multiplies two large square matrices in bfloat16, which is as fast as this machine multiplies at all."""
    torch.set_num_threads(threads)
    one, other = torch.randn(2, int(side), int(side)).bfloat16()
    ends = []
    for _ in range(steps + 1):
        torch.mm(one, other)
        ends.append(time.perf_counter())
    return per_step_ms(ends)


def _by_hand(
    model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, steps: int, split: Split, dtype: torch.dtype
) -> float:
    count = BATCH_SIZE * (steps + 1)
    images = torch.tensor(split.images[:count], dtype=torch.float32) / 255
    classes = torch.tensor(split.classes[:count], dtype=torch.long)
    ends: list[float] = []
    for _ in range(2):
        ends.clear()
        for indices in torch.split(torch.randperm(count), BATCH_SIZE):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = functional.cross_entropy(model(images[indices]), classes[indices])
            loss.backward()
            optimizer.step()
            ends.append(time.perf_counter())
    return per_step_ms(ends)


def per_step_ms(ends: list[float]) -> float:
    """The mean time of a step from the end of the first to the end of the last, in milliseconds."""
    return (ends[-1] - ends[0]) / (len(ends) - 1) * 1000


WAYS: dict[str, Callable[[str, int, int, Split], float]] = {
    "hangtag": hangtag,
    "plain": plain,
    "compiled": compiled,
    "product": product,
}


def main() -> None:
    measure, threads, file = WAYS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3])
    with np.load(file) as data:
        split = Split(data["images"], data["classes"])
    for line in sys.stdin:
        name, steps = line.split()
        print(measure(name, int(steps), threads, split), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
