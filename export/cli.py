"""The command ``hangtag export``."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hangtag.export import file_exporter, interruption, report
from hangtag.export.errors import IncomparableError
from hangtag.export.file.precision import PRECISIONS, model_name
from hangtag.export.foreign import intake
from hangtag.export.foreign.document import MAX_BYTES
from hangtag.export.gate.speed import TIMINGS
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.published import Published
from hangtag.export.quantization import agreement
from hangtag.export.quantization.conversion import Request
from hangtag.export.repository import inventory, promotion
from hangtag.extras import needs
from hangtag.options import FiniteRange, models_option, refuse, runs_option
from hangtag.printable import escaped
from hangtag.training.data import fashion_mnist as data

if TYPE_CHECKING:  # --onnx needs no torch, which a run needs
    from hangtag.training.runs.run import Run

_CONVERSION = ("preprocessing", "agree_at_least", "agree_on", "search_minutes")
"""The options, by their Python names, that say how samples are used."""


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
@click.option(
    "--name",
    help="With --onnx: the model's name in the repository.  [default for hangtag's own files: as with RUN]",
)
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
@click.option(
    "--calibration",
    "samples",
    type=click.Path(path_type=Path),
    metavar="FILE.npz|FOLDER",
    help="With --onnx and --precision: samples, as arrays named like the inputs, or as a folder of images. Half of "
    "them make the file, the others prove it.",
)
@click.option(
    "--preprocessing",
    help="With a folder of images: how pixels become numbers, such as 'size=224x224 scale=255 mean=0.5 std=0.5'.",
)
@click.option(
    "--agree-at-least",
    type=FiniteRange(min=50, max=100),
    metavar="PERCENT",
    help="With --calibration: of the samples, so many must be answered like by the original. Layers stay in FP32 where "
    "that needs it.  [default: 99 for int8, 99.9 for fp16]",
)
@click.option(
    "--agree-on",
    multiple=True,
    metavar=f"OUTPUT={'|'.join(agreement.RULES)}",
    help="With --calibration: compare this output, by its largest score, its values, or exactly; may be repeated.  "
    "[default: every output, as fits it]",
)
@click.option(
    "--search-minutes",
    type=FiniteRange(min=0, max=600),
    default=10,
    show_default=True,
    help="With --calibration: the most time for measuring which layers are sensitive.",
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
    samples: Path | None,
    preprocessing: str | None,
    agree_at_least: float | None,
    agree_on: tuple[str, ...],
    search_minutes: float,
) -> None:
    """Export RUN to ONNX, prove that it answers as PyTorch does, and publish it as the next version of its model.

    RUN is a run's folder, its name under --runs, or a model's name, which stands for its latest finished run. The file
    must pass a gate: batches of 1 to 64, the whole test set, each image alone and in batches. When a check fails, the
    message names the worst image, and nothing is published. The proof is written into the file: see 'hangtag models'.

    A run that is worse on the test set than the version that serves, by more than chance explains, is refused; with
    --even-if-worse it is published all the same.

    With --onnx somebody else's file is published. It is checked and run in a process of its own, on the same inputs
    alone and together, to find out whether its requests may be batched. With --precision it is converted, and must then
    answer the samples of --calibration as before; which layers stay in FP32 for that is found out. A classifier's FP32
    file that hangtag exported needs no samples: it passes the gate of a RUN, with the file in PyTorch's place.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        a certain run
      hangtag export cnn --precision int8        publishes cnn-int8
      hangtag export cnn --calibrate             with probabilities to set thresholds by
      hangtag export runs/trial --even-if-worse  although a better version serves
      hangtag export --onnx resnet.onnx --name resnet --labels imagenet.txt
      hangtag export --onnx resnet.onnx --name resnet-int8 --precision int8 --calibration photos.npz
      hangtag export --onnx models/lstm/2/model.onnx --precision int8
    """
    if (run is None) == (file is None):
        raise click.UsageError("name a RUN to export, or a file with --onnx; not both.")
    if file is not None:
        refuse("runs", "calibrate", because="for a RUN.")
        if samples is None:
            refuse(*_CONVERSION, because="for --calibration, without which no layers are chosen.")
        if samples is None and precision != "fp32" and file_exporter.is_own(file):
            refuse("labels", "max_megabytes", because="for other people's files; this one has its own.")
            _export_own_file(file, name, models, precision, timing, data_dir, even_if_worse, reports)
            return
        refuse("timing", "data_dir", "even_if_worse", because="for a RUN or a file that hangtag exported.")
        if name is None:
            raise click.UsageError("--onnx needs --name: the model's name in the repository.")
        if (samples is None) != (precision == "fp32"):
            raise click.UsageError("--precision int8 and fp16 need --calibration, and --calibration needs one of them.")
        request = None
        if samples is not None:
            least = TOLERANCES[precision].agreement if agree_at_least is None else agree_at_least / 100
            request = Request(
                precision,
                str(samples),
                preprocessing,
                least,
                agreement.parse(agree_on),
                search_seconds=60 * search_minutes,
            )
        with interruption.reported(models, name):
            _publish_file(file, name, models, labels, int(max_megabytes * 1e6), reports, request)
        return
    assert run is not None
    refuse("name", "labels", "max_megabytes", because="for --onnx alone; a run has its own.")
    refuse("samples", *_CONVERSION, because="for --onnx alone; a run is calibrated on its own data set.")
    with needs("train", "'hangtag export RUN'"):
        from hangtag.training.runs.run import Run
    exported = Run.find(run, runs)
    click.echo(f"exporting {exported.folder} in {precision}", err=True)
    with interruption.reported(models, model_name(exported.model, precision)):
        published = _publish_run(exported, models, precision, timing, calibrate, data_dir, even_if_worse)
        _report_published(published, reports)


def _export_own_file(
    file: Path,
    name: str | None,
    models: Path,
    precision: str,
    timing: str,
    data_dir: Path | None,
    even_if_worse: bool,
    reports: Path,
) -> None:
    name = name or model_name(file_exporter.network(file_exporter.read(file)), precision)
    click.echo(f"exporting {file} in {precision}", err=True)
    with interruption.reported(models, name):
        found, timed = data.load(data_dir), timing != "none"
        publish = partial(
            file_exporter.export, file, name, models, found.test, found.train.images, to=precision, timed=timed
        )
        _report_published(_even_if_worse(publish, even_if_worse), reports)


def _publish_run(
    run: "Run", models: Path, precision: str, timing: str, calibrate: bool, data_dir: Path | None, even_if_worse: bool
) -> Published:
    with needs("train", "'hangtag export RUN'"):
        from hangtag.export import exporter
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
    return _even_if_worse(publish, even_if_worse)


def _even_if_worse(publish: Callable[..., Published], even_if_worse: bool) -> Published:
    """Publish; where the version that serves cannot be compared, ask on a terminal whether to publish all the same."""
    try:
        return publish(even_if_worse=even_if_worse)
    except IncomparableError as error:
        if not sys.stdin.isatty():
            raise
        click.confirm(f"{escaped(str(error))} Publish it all the same?", abort=True, err=True)
        return publish(even_if_worse=True)


def _report_published(published: Published, reports: Path) -> None:
    summaries = {check.name: check.summary for check in published.proof.checks}
    if trial := inventory.trial(published.metadata):
        summaries = {"TRIAL RUN": trial} | summaries
    if published.proof.speed is not None:
        summaries["speed"] = str(published.proof.speed)
    page = report.report_path(reports, published.folder)
    report.write_run_report(published, published.images, json.loads(published.metadata["labels"]), page)
    _print_summaries(published.folder, summaries, page)


def _publish_file(
    file: Path, name: str, models: Path, labels: Path | None, max_bytes: int, reports: Path, request: Request | None
) -> None:
    click.echo(f"checking {file}", err=True)
    accepted = intake.accept(
        file, name, models, labels, max_bytes, request, lambda line: click.echo(escaped(line), err=True)
    )
    page = report.report_path(reports, accepted.folder)
    report.write_file_report(accepted, page)
    _print_summaries(accepted.folder, accepted.summaries, page)


def _print_summaries(folder: Path, summaries: dict[str, str], page: Path) -> None:
    click.echo(f"published {folder}")
    for check, summary in summaries.items():
        click.echo(escaped(f"  {check:<12} {summary}"))
    if note := promotion.note(folder):
        click.echo(note, err=True)
    click.echo(f"report: {page}", err=True)
