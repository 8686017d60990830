"""The same steps in PyTorch, under measure.py: by hangtag's own training loop, or as one would write them down plainly.

Each line on stdin names a model and a number of steps, each line on stdout is the milliseconds that a step took.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from training import data, trainer
from training.config import RunConfig
from training.data import FashionMnist
from training.models import build
from training.recipes import recipe_for
from training.run import Run


def hangtag(name: str, steps: int, threads: int, garments: FashionMnist) -> float:
    """The second epoch of a run by the command's own loop, with bfloat16; validation is not counted."""
    config = RunConfig(
        model=name,
        recipe=replace(recipe_for("study", name), epochs=2),
        seed=0,
        data_digest=garments.digest,
        limit=32 * steps,
        precision="bf16",
        threads=threads,
        device="cpu",
    )
    few = replace(garments, validation=garments.validation.first(32), test=garments.test.first(32))
    with tempfile.TemporaryDirectory() as folder:
        metrics = trainer.train(config, few, Run(Path(folder)))
    step_ms: float = metrics["epochs"][1]["step_ms"]
    return step_ms


def plain(name: str, steps: int, threads: int, garments: FashionMnist) -> float:
    """FP32, the default memory layout, PyTorch's default Adam."""
    torch.set_num_threads(threads)
    model = build(name)
    optimizer = torch.optim.Adam(model.parameters())
    count = 32 * steps
    images = torch.tensor(garments.train.images[:count], dtype=torch.float32) / 255
    classes = torch.tensor(garments.train.classes[:count], dtype=torch.long)
    for epoch in range(2):
        started = time.perf_counter()
        for indices in torch.split(torch.randperm(count), 32):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[indices]), classes[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if epoch:
            break
    return (time.perf_counter() - started) / steps * 1000


def main() -> None:
    measure = {"hangtag": hangtag, "plain": plain}[sys.argv[1]]
    threads, garments = int(sys.argv[2]), data.load()
    for line in sys.stdin:
        name, steps = line.split()
        print(measure(name, int(steps), threads, garments), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
