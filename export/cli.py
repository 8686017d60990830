"""The command ``hangtag export``."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hangtag.export import exporter, file_source, report, terminal
from hangtag.export.errors import ExportError
from hangtag.export.exporter import Source
from hangtag.export.gate.speed import TIMINGS
from hangtag.export.quantization.precision import model_name
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import models_option, refuse, runs_option
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.config import short_name

if TYPE_CHECKING:  # a file needs no torch, which a run needs
    from hangtag.training.runs.run import Run


@click.command()
@click.argument("run", metavar="RUN|FILE.onnx")
@models_option("The model repository to publish into.")
@runs_option
@terminal.precision_option("fp16 is for GPUs, int8 for CPUs; each is a model of its own, such as cnn-int8.")
@click.option(
    "--timing",
    type=click.Choice(TIMINGS),
    default="compile",
    show_default=True,
    help="What to compare the file's speed with. eager: PyTorch. compile: torch.compile too. none: nothing.",
)
@terminal.reports_option
@click.option(
    "--calibrate",
    is_flag=True,
    help="Let the probabilities match how often they are right, by a temperature fitted on the validation images.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the run's data set is now: Fashion-MNIST's IDX files, or your own pictures, if they were moved.",
)
@terminal.even_if_worse_option
@terminal.even_if_different_option
@click.option(
    "--name",
    help="The model's name in the repository; the precision of a RUN is added to it.  [default: the network's name]",
)
def export(
    run: str,
    models: Path,
    runs: Path,
    precision: str,
    timing: str,
    reports: Path,
    calibrate: bool,
    data_dir: Path | None,
    even_if_worse: bool,
    even_if_different: bool,
    name: str | None,
) -> None:
    """Export RUN to ONNX, prove that it answers as PyTorch does, and publish it as the next version of its model.

    RUN is a run's folder, its name under --runs, or a model's name, which stands for its latest finished run. The file
    must pass a gate: batches of 1 to 64, the whole test set, each image alone and in batches. When a check fails, the
    message names the worst image, and nothing is published. The proof is written into the file: see 'hangtag models'.

    A run that is worse on the test set than the version that serves, by more than chance explains, is refused; with
    --even-if-worse it is published all the same.

    RUN may also be a classifier's FP32 file that hangtag exported, to publish it in another --precision without its run
    and without PyTorch: it passes the same gate, with the file in PyTorch's place. 'hangtag import' publishes other
    people's files.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        a certain run
      hangtag export cnn --precision int8        publishes cnn-int8
      hangtag export cnn --calibrate             with probabilities to set thresholds by
      hangtag export runs/trial --even-if-worse  although a better version serves
      hangtag export models/lstm/2/model.onnx --precision int8
    """
    source: Callable[[], Source]
    if run.endswith(".onnx"):
        file = Path(run)
        _require_own_file(file, precision)
        refuse("runs", "calibrate", because="for a run; a file has neither.")
        config, shown = file_source.config(file), file
        name = name or model_name(str(config["model"]), precision)
        source = partial(_source_of_file, file, config, data_dir, precision, name)
    else:
        with needs("train", "'hangtag export RUN'"):
            from hangtag.training.runs.run import Run
        chosen = Run.find(run, runs)
        shown, source = chosen.folder, partial(_source_of_run, chosen, data_dir, precision, name)
        name = model_name(name or short_name(chosen.model), precision)
    click.echo(f"exporting {shown} in {precision}", err=True)
    with terminal.interruption_reported(models, name):
        publish = partial(
            exporter.export, source(), models,
            calibrate=calibrate, timing=timing, even_if_different=even_if_different,
        )  # fmt: skip
        published = terminal.even_if_worse(lambda asked: publish(even_if_worse=asked), asked=even_if_worse)
        summaries = {check.name: check.summary for check in published.proof.checks}
        if trial := inventory.trial(published.metadata):
            summaries = {"TRIAL RUN": trial} | summaries
        if published.proof.speed is not None:
            summaries["speed"] = str(published.proof.speed)
        page = report.report_path(reports, published.folder)
        report.write_run_report(published, published.images, json.loads(published.metadata["labels"]), page)
        terminal.print_published(published.folder, summaries, page)


def _require_own_file(file: Path, precision: str) -> None:
    if not file.is_file():
        raise ExportError(f"there is no file {file}.")
    if not file_source.is_own(file):
        raise ExportError(
            f"{file} was not exported by hangtag from a run. Publish somebody else's file with: hangtag import {file} "
            "--name NAME"
        )
    if precision == "fp32":
        raise click.UsageError(f"{file} is in FP32: name another --precision.")


def _source_of_file(file: Path, config: Mapping[str, Any], data_dir: Path | None, precision: str, name: str) -> Source:
    return file_source.of_file(file, runs_data.load(config, data_dir), precision, name)


def _source_of_run(run: "Run", data_dir: Path | None, precision: str, name: str | None) -> Source:
    with needs("train", "'hangtag export RUN'"):
        from hangtag.export import run_source
    config = run.read_config()
    if config.get("dataset") in sources.LABEL_SETS:  # canvases for the proof are composed of garments
        data = fashion_mnist.load(data_dir)
    else:
        data = runs_data.load(config, data_dir)
    return run_source.of_run(run, data, precision, name=name)
