"""Runs ranks as forked processes: those of a group, and those that ``--processes`` starts."""

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessContext, start_processes

from hangtag.training.data import fashion_mnist
from hangtag.training.errors import DivergedError
from hangtag.training.loop import trainer
from hangtag.training.losses.outcome import BatchOutcome
from hangtag.training.observer import StepProgress
from hangtag.training.processes.distributed import process_group
from hangtag.training.runs.run import Run
from hangtag.training.tasks.single_label import SingleLabelTask
from tests.kit.forkserver import CONTEXT
from tests.training.configs import OnStep, make_config

_SECONDS = 240.0
_SECONDS_FOR_THE_OTHERS = 30.0


def run_ranks(raw_dir: Path, model: str, folder: Path, processes: int, limit: int = 65, fate: str = "live") -> int:
    """Train for three epochs, and return the first rank's exit code other than 0, or 0.

    Args:
        raw_dir: The data set.
        model: The network.
        folder: Of the run.
        processes: Number of ranks; 1: no process group.
        limit: Training images.
        fate: ``live``, or ``die``: every rank exits with 3 in the second epoch, or ``diverge``: the loss of rank 1
            becomes nan.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        CONTEXT.Process(
            target=_train,
            args=(
                group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port} if processes > 1 else {},
                raw_dir,
                model,
                folder,
                limit,
                fate,
            ),
        )
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    wait([rank.sentinel for rank in ranks], _SECONDS)  # one of them has ended: the others are about to
    for rank in ranks:
        rank.join(_SECONDS_FOR_THE_OTHERS)
        if rank.is_alive():
            rank.kill()
            rank.join()
    return next((rank.exitcode for rank in ranks if rank.exitcode), 0)


def fork(work: Callable[..., None], args: tuple[Any, ...], *, outputs: Path, **options: Any) -> ProcessContext | None:
    """Replaces ``start_processes``: forks the processes instead of starting Python anew for each.

    Args:
        work: Called in each with its rank and ``args``.
        outputs: A file, which all their standard outputs and standard errors go to.
        options: The other arguments of ``start_processes``.
    """
    context: ProcessContext | None = start_processes(
        partial(_with_outputs_in, outputs, work), args, **options | {"start_method": "forkserver"}
    )
    return context


def _with_outputs_in(outputs: Path, work: Callable[..., None], *args: Any) -> None:
    with outputs.open("ab") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    work(*args)


def _train(variables: Mapping[str, str], raw_dir: Path, model: str, folder: Path, limit: int, fate: str) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    config = make_config(model, limit=limit, epochs=3)
    # Dropout differs between the ranks, as it must; without it two ranks give what one gives but for rounding.
    config = replace(config, recipe=replace(config.recipe, dropout=0.0, ema_decay=0.9))
    step = SingleLabelTask.training_step

    with process_group("cpu") as group:

        def spoil(at: StepProgress) -> None:
            if fate == "die" and (at.epoch, at.step) == (2, 2):
                raise SystemExit(3)
            if fate == "diverge" and (at.epoch, at.step) == (1, at.steps) and group.rank == 1:
                SingleLabelTask.training_step = lambda *given: BatchOutcome(  # type: ignore[method-assign]
                    *(part * math.nan for part in step(*given))
                )

        config = replace(config, processes=group.world_size)
        try:
            trainer.train(config, fashion_mnist.load(raw_dir), Run(folder), OnStep(spoil), group=group)
        except DivergedError as error:
            with Path(folder.parent, "errors.txt").open("a") as file:
                file.write(f"{error}\n")
            raise SystemExit(1) from None
