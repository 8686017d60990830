"""The command ``hangtag export``."""

import json
import sys
from functools import partial
from pathlib import Path

import click

from hangtag.export import exporter, interruption, report
from hangtag.export.errors import IncomparableError
from hangtag.export.exporter import Published
from hangtag.export.file.precision import PRECISIONS, model_name
from hangtag.export.foreign import intake
from hangtag.export.foreign.document import MAX_BYTES
from hangtag.export.gate.speed import TIMINGS
from hangtag.export.repository import inventory
from hangtag.options import models_option, refuse, runs_option
from hangtag.serving import model_repository
from hangtag.serving.model_repository import ModelRepositoryError
from hangtag.training.data import fashion_mnist as data
from hangtag.training.runs.run import Run


@click.command()
@click.argument("run", required=False)
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
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@click.option(
    "--even-if-worse",
    is_flag=True,
    help="Publish also if the version that serves is better, or has no figure to compare with.",
)
@click.option(
    "--onnx", "file", type=click.Path(dir_okay=False, path_type=Path), help="Publish this file instead of a run."
)
@click.option("--name", help="With --onnx: the model's name in the repository.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --onnx: the labels of the outputs' last axis, one per line, or a JSON list.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0.001, max=MAX_BYTES / 1e6),
    default=MAX_BYTES // 10**6,
    show_default=True,
    help="With --onnx: a larger file, external data included, is refused.",
)
def export(
    run: str | None,
    models: Path,
    runs: Path,
    precision: str,
    timing: str,
    reports: Path,
    calibrate: bool,
    data_dir: Path | None,
    even_if_worse: bool,
    file: Path | None,
    name: str | None,
    labels: Path | None,
    max_megabytes: float,
) -> None:
    """Export RUN to ONNX, prove that it answers as PyTorch does, and publish it as the next version of its model.

    RUN is a run's folder, its name under --runs, or a model's name, which stands for its latest finished run. The file
    must pass a gate: batches of 1 to 64, the whole test set, each image alone and in batches. When a check fails, the
    message names the worst image, and nothing is published. The proof is written into the file: see 'hangtag models'.

    A run that is worse on the test set than the version that serves, by more than chance explains, is refused; with
    --even-if-worse it is published all the same.

    With --onnx somebody else's file is published. It is checked and run in a process of its own, on the same inputs
    alone and together, to find out whether its requests may be batched.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        a certain run
      hangtag export cnn --precision int8        publishes cnn-int8
      hangtag export cnn --calibrate             with probabilities to set thresholds by
      hangtag export runs/trial --even-if-worse  although a better version serves
      hangtag export --onnx resnet.onnx --name resnet --labels imagenet.txt
    """
    if (run is None) == (file is None):
        raise click.UsageError("name a RUN to export, or a file with --onnx; not both.")
    if file is not None:
        refuse(
            "runs",
            "precision",
            "timing",
            "calibrate",
            "data_dir",
            "even_if_worse",
            because="for a RUN; --onnx takes a file as it is.",
        )
        if name is None:
            raise click.UsageError("--onnx needs --name: the model's name in the repository.")
        with interruption.reported(models, name):
            _publish_file(file, name, models, labels, int(max_megabytes * 1e6), reports)
        return
    assert run is not None
    refuse("name", "labels", "max_megabytes", because="for --onnx alone; a run has its own.")
    exported = Run.find(run, runs)
    click.echo(f"exporting {exported.folder} in {precision}", err=True)
    with interruption.reported(models, model_name(exported.model, precision)):
        published = _publish_run(exported, models, precision, timing, calibrate, data_dir, even_if_worse)
        _report_run(published, reports)


def _publish_run(
    run: Run, models: Path, precision: str, timing: str, calibrate: bool, data_dir: Path | None, even_if_worse: bool
) -> Published:
    whole = data.load(data_dir) if calibrate or precision == "int8" else None
    publish = partial(
        exporter.export,
        run,
        models,
        data.load_test(data_dir),
        to=precision,
        quantize_on=whole.train.images if whole and precision == "int8" else None,
        calibrate_on=whole.validation if whole and calibrate else None,
        timing=timing,
    )
    try:
        return publish(even_if_worse=even_if_worse)
    except IncomparableError as error:
        if not sys.stdin.isatty():
            raise
        click.confirm(f"{error} Publish it all the same?", abort=True, err=True)
        return publish(even_if_worse=True)


def _report_run(published: Published, reports: Path) -> None:
    summaries = {check.name: check.summary for check in published.proof.checks}
    if trial := inventory.trial(published.metadata):
        summaries = {"TRIAL RUN": trial} | summaries
    if published.proof.speed is not None:
        summaries["speed"] = str(published.proof.speed)
    page = report.report_path(reports, published.folder)
    report.write_run_report(published, published.images, json.loads(published.metadata["labels"]), page)
    _print_summaries(published.folder, summaries, page)


def _publish_file(file: Path, name: str, models: Path, labels: Path | None, max_bytes: int, reports: Path) -> None:
    click.echo(f"checking {file}", err=True)
    accepted = intake.accept(file, name, models, labels, max_bytes)
    page = report.report_path(reports, accepted.folder)
    report.write_file_report(accepted, page)
    _print_summaries(accepted.folder, accepted.summaries, page)


def _print_summaries(folder: Path, summaries: dict[str, str], page: Path) -> None:
    click.echo(f"published {folder}")
    for check, summary in summaries.items():
        click.echo(f"  {check:<12} {summary}")
    if note := _promotion_note(folder):
        click.echo(note, err=True)
    click.echo(f"report: {page}", err=True)


def _promotion_note(folder: Path) -> str | None:
    """What to do if the published version does not serve; None if it does."""
    name, version = folder.parent.name, folder.name
    try:
        serving = model_repository.versions_in(folder.parent)[0].version
    except ModelRepositoryError as error:
        return f"note: {error}"
    if str(serving) == version:
        return None
    return f"note: version {serving} is promoted and goes on serving. Next: hangtag models promote {name} {version}"
