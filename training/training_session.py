"""Runs ``hangtag train`` in one process: reads the data, trains, and reports the result."""

import math
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hangtag import listing
from hangtag.output import require_writable, writing
from hangtag.training.catalog import first_network
from hangtag.training.data import sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.errors import RunMismatchError, SettingsError
from hangtag.training.loop.train import train as train_run
from hangtag.training.networks import own
from hangtag.training.processes import ProcessGroup, keep_freed_memory, process_group
from hangtag.training.progress import Observer, TerminalObserver
from hangtag.training.run_settings import TrainSettings
from hangtag.training.runs.config import RunConfig, WeightsFile, command, short_dataset, short_name
from hangtag.training.runs.run import REPORT, Run
from hangtag.training.tasks.teacher import TeacherEnsemble, published_teachers

_FEW_IMAGES = 500  # with fewer images, a percentage is imprecise, so their number is printed after it
_TIMED_STEPS = 30  # a dry run measures the duration of at most this many steps


def train(settings: TrainSettings) -> None:
    """Train a run in this process, which may be one of several ranks. In every rank, raises
    SystemExit with 130 after Ctrl-C, and a UserError if data, teachers or a folder cannot be used."""
    keep_freed_memory()
    with process_group(settings.chosen_device) as group:
        data, teacher = group.on_every_rank(lambda: _read(settings, group))
        config = _config(settings, data, teacher, group)
        dataset = "" if config.dataset == "fashion-mnist" else f"-{short_dataset(config.dataset)}"
        name = f"{short_name(config.model)}{dataset}-{config.recipe.name}-seed{config.seed}"
        run = Run(settings.out or Path("runs") / name)
        if settings.restart and (first := settings.start_from) and first.resolve().parent == run.folder.resolve():
            raise SettingsError(f"--restart would delete the run that holds {first}. Choose another --out.")
        # The network is built first, so that an error creates no folder and changes no existing run.
        notes = group.on_every_rank(lambda: _require_network(config, data))
        if settings.dry_run:
            _dry_run(config, data, run, group, restart=settings.restart)
            return
        if settings.restart:
            group.on_rank_zero(run.erase)
        if group.is_rank_zero:
            for note in (*data.notes, *notes):
                _report(note)
            _report(f"{run.folder.absolute().name}: data from {data.source}, {_resources(config)}")
        was_finished = group.on_rank_zero(lambda: "summary" in run.metrics)
        try:
            with TerminalObserver(config.recipe.epochs, shown=group.is_rank_zero, select=config.select) as observer:
                metrics = train_run(config, data, run, observer, teacher, group)
        except KeyboardInterrupt:
            if group.is_rank_zero:
                resume = command(config.as_json(), run.folder)
                _report(f"stopped. Continue from the last finished epoch with: {resume}")
            raise SystemExit(130) from None  # the exit status of a process that SIGINT stopped
        if group.is_rank_zero:
            if was_finished and run.has(REPORT):
                _report("this run is already finished, so nothing was trained. Use --restart to train it again.")
            else:
                from hangtag.training.report.run_page import run_page  # imports matplotlib, which takes a second

                with writing(run.folder / REPORT):
                    page = run_page(run, validation=data.validation.first(config.limit).images)
                    (run.folder / REPORT).write_text(page, encoding="utf-8")
            validated = {"validation": len(data.validation.first(config.limit))}
            _report_result(run, metrics, config.select, data.sizes | validated)


def _dry_run(config: RunConfig, data: Dataset, run: Run, group: ProcessGroup, *, restart: bool) -> None:
    """Print the size of the run, and its duration as estimated from the second epoch of a short run in a temporary
    folder. The short run replaces the teacher's logits with zeros. Prints the error if the folder holds another run.
    Raises all other errors that the run would raise before training."""
    group.on_rank_zero(lambda: require_writable(run.folder / "config.json"))
    if group.is_rank_zero and not restart:
        try:
            run.require_fitting(config, data.members)
        except RunMismatchError as error:
            _report(str(error))
    recipe, images = config.recipe, len(data.train.first(config.limit))
    few = min(images, _TIMED_STEPS * recipe.batch_size)
    short = replace(config, limit=few, recipe=replace(recipe, epochs=2))
    silent = (lambda images: np.zeros((len(images), len(data.labels)), np.float32)) if config.teachers else None
    with tempfile.TemporaryDirectory(prefix="hangtag-dry-run-") as folder:
        metrics = train_run(short, data, Run(Path(folder)), Observer(), silent, group)
    if not group.is_rank_zero:
        return
    step_ms, parameters = metrics["epochs"][-1]["step_ms"], metrics["summary"]["parameters"]
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    seconds = steps * step_ms / 1000
    unit, divisor = ("minutes", 60) if seconds < 6_000 else ("hours", 3600)
    duration = f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / divisor:,.1f} {unit}"
    shown = {
        "run": f"{run.folder}, on {_resources(config)}",
        "data": f"{config.dataset} from {data.source}",
        "images": f"train {images:,}, validation {len(data.validation.first(config.limit)):,}, "
        f"test {len(data.test):,}, each of {data.image.height} by {data.image.width} pixels; {len(data.labels)} labels",
        "network": f"{parameters:,} parameters, {parameters * 4 / 1e6:.1f} MB in FP32",
        "steps": f"{steps:,} in {recipe.epochs:,} epochs",
        "time": f"about {duration} on this machine, at {step_ms:.2f} ms a step; "
        f"validation{' and the teacher' if config.teachers else ''} not included",
    }
    for heading, text in shown.items():
        sys.stdout.write(f"{heading:<8}  {text}\n")


def _read(settings: TrainSettings, group: ProcessGroup) -> tuple[Dataset, TeacherEnsemble | None]:
    if own.is_own(settings.model):
        own.find(settings.model)  # checked first, because reading the pictures may take minutes
    data = sources.load(settings.dataset, settings.data_dir, settings.limit, settings.own_pictures)
    images, least = len(data.train.first(settings.limit)), 2 * group.world_size
    if settings.chosen_recipe.batch_norm and images < least:
        raise SettingsError(
            f"batch normalisation needs at least {least} training images, and there are {images}. Give a larger "
            "--limit, or add --set batch_norm=false."
        )
    if not (distillation := settings.chosen_recipe.distillation):
        return data, None
    paths = settings.teachers or published_teachers(distillation.teacher)
    return data, TeacherEnsemble(paths, data.labels, data.image, _threads(settings))


def _config(settings: TrainSettings, data: Dataset, teacher: TeacherEnsemble | None, group: ProcessGroup) -> RunConfig:
    kind = sources.kind_of(settings.dataset)
    copied = ("model", "seed", "limit", "precision", "balance", "select", "command")
    return RunConfig(
        **{name: getattr(settings, name) for name in copied},
        recipe=settings.chosen_recipe,
        data_digest=data.digest,
        threads=_threads(settings),
        device=settings.chosen_device,
        processes=group.world_size,
        teachers=teacher.files if teacher else (),
        start_from=WeightsFile.of(settings.start_from.absolute()) if settings.start_from else None,
        # the absolute path lets the run be exported from any folder
        dataset=f"{kind}:{listing.place_of(settings.dataset).absolute()}" if kind else settings.dataset,
        image=data.image if kind else None,
        pictures=settings.own_pictures if kind else None,
        data_dir=str(settings.data_dir.absolute()) if settings.data_dir else None,
    )


def _require_network(config: RunConfig, data: Dataset) -> list[str]:
    """Build the network once, and return notes: which weights are freshly initialised, and why an export would fail.
    Raises SettingsError if the network cannot be built for this data, or computed in this precision."""
    network, notes = first_network(config, len(data.labels), data.image)
    has_lstm, has_dropout = (any(isinstance(one, kind) for one in network.modules()) for kind in (nn.LSTM, nn.Dropout))
    rate, shift, edge = config.recipe.dropout, config.recipe.augmentation.shift, min(data.image.shape[:2])
    if rate is not None and not has_dropout:
        raise SettingsError(f"--set dropout={rate}: {config.model} has no nn.Dropout layers.")
    if shift >= edge:
        raise SettingsError(f"--set shift={shift:g}: it must be smaller than the pictures' shorter edge, {edge}.")
    if config.precision == "bf16" and has_lstm and config.device == "cpu" and not cpu_computes_lstms_in_bf16():
        raise SettingsError(
            f"--precision bf16: PyTorch cannot compute an LSTM in bfloat16 on this CPU, and {config.model} has an "
            "LSTM. Use --precision fp32."
        )
    if own.is_own(config.model) and (why := own.why_not_exportable(network, data.image)):
        notes.append(
            f"{config.model} may not be worth training: PyTorch could not export it in a trial, so 'hangtag export' "
            f"would fail too. The error of PyTorch's exporter is: {why}. Use only operations on tensors. Do not use "
            "if, int() or float() on a tensor."
        )
    return notes


def cpu_computes_lstms_in_bf16() -> bool:
    """Return whether PyTorch can compute an LSTM in bfloat16 on this CPU, for which the CPU needs AVX-512."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(4, 4)(torch.rand(2, 1, 4))
    except RuntimeError:
        return False
    return True


def _threads(settings: TrainSettings) -> int:
    """Return the chosen number of CPU threads, or by default this process's share of the CPUs."""
    return settings.threads or max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _resources(config: RunConfig) -> str:
    processes = f"{config.processes} processes with " if config.processes > 1 else ""
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    teachers = f", learning from {' and '.join(file.path for file in config.teachers)}" if config.teachers else ""
    return f"{config.device}, {processes}{threads}{teachers}"


def _report_result(run: Run, metrics: dict[str, Any], select: str, sizes: dict[str, int]) -> None:
    summary = metrics["summary"]
    names = {"accuracy": "accuracy", "o_f1": "O-F1", "exact_match": "exact match", select: select.replace("_", " ")}
    few = {split: f" of {images} images" if images < _FEW_IMAGES else "" for split, images in sizes.items()}
    figures = [
        f"{split} {name} {summary[split][figure]:.2%}{few[split]}"
        for split in ("validation", "test")
        for figure, name in names.items()
        if figure in summary[split]
    ]
    _report(f"best epoch {summary['best_epoch']}: {', '.join(figures)}, {summary['parameters']:,} parameters")
    _report(f"run: {run.folder}   next: hangtag export {run.folder}")


def _report(line: str) -> None:
    # rich is not used, because it would wrap lines and take brackets in a path for markup.
    sys.stderr.write(f"{line}\n")
