"""The command ``hangtag export``."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hangtag.export import file_exporter, interruption, report, terminal
from hangtag.export.errors import ExportError
from hangtag.export.gate.speed import TIMINGS
from hangtag.export.published import Published
from hangtag.export.quantization.precision import PRECISIONS, model_name
from hangtag.export.repository import inventory
from hangtag.extras import needs
from hangtag.options import models_option, refuse, runs_option
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.runs import data as runs_data

if TYPE_CHECKING:  # a file needs no torch, which a run needs
    from hangtag.training.runs.run import Run


@click.command()
@click.argument("run", metavar="RUN|FILE.onnx")
@models_option("The model repository to publish into.")
@runs_option
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="fp16 is for GPUs, int8 for CPUs; each is a model of its own, such as cnn-int8.",
)
@click.option(
    "--timing",
    type=click.Choice(TIMINGS),
    default="compile",
    show_default=True,
    help="What to compare the file's speed with. eager: PyTorch. compile: torch.compile too. none: nothing.",
)
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports/export"),
    show_default=True,
    help="Folder for the report about the export, NAME-VERSION.html; in it a repository other than models has its own.",
)
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
@click.option(
    "--even-if-worse",
    is_flag=True,
    help="Publish also if the version that serves is better, or has no figure to compare with.",
)
@click.option(
    "--even-if-different",
    is_flag=True,
    help="Publish also if the version that serves has other inputs, outputs or labels, which its callers rely on.",
)
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
    file = Path(run)
    if file.suffix == ".onnx":
        _require_own_file(file, precision)
        refuse("runs", "calibrate", because="for a run; a file has neither.")
        _export_own_file(file, name, models, precision, timing, data_dir, even_if_worse, even_if_different, reports)
        return
    with needs("train", "'hangtag export RUN'"):
        from hangtag.training.networks.own import short_name
        from hangtag.training.runs.run import Run
    exported = Run.find(run, runs)
    click.echo(f"exporting {exported.folder} in {precision}", err=True)
    with interruption.reported(models, model_name(name or short_name(exported.model), precision)):
        published = _publish_run(
            exported, models, precision, timing, calibrate, data_dir, even_if_worse, even_if_different, name
        )
        _report_published(published, reports)


def _require_own_file(file: Path, precision: str) -> None:
    if not file.is_file():
        raise ExportError(f"there is no file {file}.")
    if not file_exporter.is_own(file):
        raise ExportError(
            f"{file} was not exported by hangtag from a run. Publish somebody else's file with: hangtag import {file} "
            "--name NAME"
        )
    if precision == "fp32":
        raise click.UsageError(f"{file} is in FP32: name another --precision.")


def _export_own_file(
    file: Path,
    name: str | None,
    models: Path,
    precision: str,
    timing: str,
    data_dir: Path | None,
    even_if_worse: bool,
    even_if_different: bool,
    reports: Path,
) -> None:
    name = name or model_name(file_exporter.network(file_exporter.read(file)), precision)
    click.echo(f"exporting {file} in {precision}", err=True)
    with interruption.reported(models, name):
        found = runs_data.load(file_exporter.config(file_exporter.read(file)), data_dir)
        publish = partial(
            file_exporter.export,
            file,
            name,
            models,
            found,
            to=precision,
            timed=timing != "none",
            even_if_different=even_if_different,
        )
        published = terminal.even_if_worse(lambda asked: publish(even_if_worse=asked), asked=even_if_worse)
        _report_published(published, reports)


def _publish_run(
    run: "Run",
    models: Path,
    precision: str,
    timing: str,
    calibrate: bool,
    data_dir: Path | None,
    even_if_worse: bool,
    even_if_different: bool,
    name: str | None,
) -> Published:
    with needs("train", "'hangtag export RUN'"):
        from hangtag.export import exporter
    config = run.read_config()
    if config.get("dataset") in sources.LABEL_SETS:  # canvases for the proof are composed of garments
        data = fashion_mnist.load(data_dir)
    else:
        data = runs_data.load(config, data_dir)
    publish = partial(
        exporter.export,
        run,
        models,
        data,
        to=precision,
        calibrate=calibrate,
        timing=timing,
        name=name,
        even_if_different=even_if_different,
    )
    return terminal.even_if_worse(lambda asked: publish(even_if_worse=asked), asked=even_if_worse)


def _report_published(published: Published, reports: Path) -> None:
    summaries = {check.name: check.summary for check in published.proof.checks}
    if trial := inventory.trial(published.metadata):
        summaries = {"TRIAL RUN": trial} | summaries
    if published.proof.speed is not None:
        summaries["speed"] = str(published.proof.speed)
    page = report.report_path(reports, published.folder)
    report.write_run_report(published, published.images, json.loads(published.metadata["labels"]), page)
    terminal.print_published(published.folder, summaries, page)
