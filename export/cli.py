"""The commands ``hangtag export``, for networks that hangtag trained, and ``hangtag import``, for other networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hangtag.export.quantization.precision import PRECISIONS
from hangtag.export.repository import promotion
from hangtag.export.third_party import importer
from hangtag.export.third_party.import_options import EVEN_IF_DIFFERENT, EVEN_IF_WORSE, MODELS, NAME, ImportOptions
from hangtag.extras import needs
from hangtag.options import models_option, options_of, refuse, runs_option
from hangtag.printable import escaped
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.runs import run_data as runs_data


class _Export(click.Command):
    """The command ``hangtag export``. For one release it still accepts ``--onnx FILE`` of 0.2.1, with a warning."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--onnx=") else [arg])]
        if "--onnx" not in args or parent is None:
            return super().make_context(info_name, args, parent, **extra)
        at = args.index("--onnx")
        # 'hangtag import' expects the file as the first argument
        given = [*args[at + 1 : at + 2], *args[:at], *args[at + 2 :]]
        click.echo("Warning: --onnx will be removed in the next release: write 'hangtag import FILE.onnx'.", err=True)
        return import_file.make_context("import", given, parent, **extra)


@click.command(cls=_Export)
@click.argument("run", metavar="RUN")
@models_option(MODELS)
@runs_option
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="The file's precision: fp16 for GPUs, int8 for CPUs. Each precision is a separate model, such as cnn-int8.",
)
@click.option(
    "--fit-temperature",
    is_flag=True,
    help="Calibrate the probabilities: divide the logits by a temperature, which is chosen on the validation pictures.",
)
@click.option("--calibrate", is_flag=True, hidden=True, deprecated="Write --fit-temperature.")
@click.option(
    "--timing",
    hidden=True,
    expose_value=False,
    deprecated="It has no effect.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="The folder with Fashion-MNIST's IDX files, or, if you moved the run's pictures, their new folder.",
)
@click.option("--even-if-worse", is_flag=True, help=EVEN_IF_WORSE)
@click.option("--even-if-different", is_flag=True, help=EVEN_IF_DIFFERENT)
@click.option("--name", help=f"{NAME}  [default: the network's name]")
def export(
    run: str,
    models: Path,
    runs: Path,
    precision: str,
    fit_temperature: bool,
    calibrate: bool,
    data_dir: Path | None,
    even_if_worse: bool,
    even_if_different: bool,
    name: str | None,
) -> None:
    """Export RUN to ONNX, check that the file gives PyTorch's answers, and publish it as a model's next version.

    RUN is a run's folder, a run's name under --runs, or a model's name, which means the latest finished run of the
    model. The file must give PyTorch's answers for the test pictures, one at a time and in batches of up to 64. If a
    check fails, the message names the worst picture, and nothing is published. The file records the results of the
    checks, and 'hangtag models show' prints them.

    Without --even-if-worse, hangtag refuses a run whose test accuracy is significantly lower than that of the served
    version.

    'hangtag import' publishes ONNX files from elsewhere.

    \b
    Examples:
      hangtag export lstm                        the latest finished lstm run
      hangtag export runs/cnn-study-seed1        the run in this folder
      hangtag export cnn --precision int8        publishes cnn-int8
      hangtag export cnn --fit-temperature       with calibrated probabilities
      hangtag export runs/trial --even-if-worse  also if the served version is better
    """
    if run.endswith(".onnx"):
        raise click.UsageError(
            f"{run} is a file. 'hangtag import' publishes files; 'hangtag export' needs the name of a run."
        )
    with needs("train", "'hangtag export'"):
        from hangtag.export import exporter
        from hangtag.training.runs.run import Run
    chosen = Run.find(run, runs)
    click.echo(f"exporting {chosen.folder} in {precision}", err=True)
    config = chosen.config
    if config.get("dataset") in sources.LABEL_SETS:  # the gate's images are composed from Fashion-MNIST
        data = fashion_mnist.load(data_dir)
    else:
        data = runs_data.load(config, data_dir, chosen.members())
    folder, summaries = exporter.export(
        chosen,
        data,
        models,
        precision,
        name=name,
        fit_temperature=fit_temperature or calibrate,
        even_if_worse=even_if_worse,
        even_if_different=even_if_different,
    )
    _print_published(folder, summaries)


_CONVERSION = ("samples", "agree_at_least", "agree_on")
"""The Python names of the options for a conversion to int8."""


@click.command("import")
@click.argument("file", metavar="FILE.onnx", type=click.Path(dir_okay=False, path_type=Path))
@options_of(ImportOptions)
def import_file(file: Path, **given: Any) -> None:
    """Publish an ONNX FILE from elsewhere as the next version of a model.

    A separate process checks the file. This process runs the same inputs alone and in batches, to find out whether the
    server may batch requests.

    With --preprocessing the network becomes a classifier of pictures. The published file accepts UINT8 pictures,
    prepares them, and returns a probability for each of --labels, so 'hangtag classify' and the server's page accept
    any picture. hangtag compares the answers of the published file with those of the original network, for which Pillow
    and NumPy prepare the pictures. If you leave out --preprocessing or --labels, hangtag reads them from the files that
    timm or Hugging Face wrote next to FILE (config.json, preprocessor_config.json), or from Ultralytics' metadata in
    FILE.

    A classifier that hangtag published already has its labels and preprocessing. Any other file without preprocessing
    is published unchanged, and 'hangtag classify' cannot use it.

    With --precision int8, hangtag converts the file. The converted file must give the same answers to the samples, so a
    search chooses the layers that must stay in FP32.

    \b
    Examples:
      hangtag import resnet.onnx --name resnet --labels imagenet.txt --preprocessing "size=224x224 fit=crop scale=255
          mean=0.485,0.456,0.406 std=0.229,0.224,0.225"
      hangtag import vit/model.onnx --name vit --data folder:photos     with a preprocessor_config.json in vit
      hangtag import vit/model.onnx --name vit-int8 --data folder:photos --precision int8
      hangtag import models/cnn/3/model.onnx --name cnn --precision int8 --data csv:photos.csv
      hangtag import encoder.onnx --name encoder                        any other network
    """
    options = ImportOptions(**given)
    if options.preprocessing is not None and not options.preprocessing.strip():
        raise click.UsageError("--preprocessing is empty: leave the option out, or state the steps.")
    if options.precision == "fp32":
        refuse(*_CONVERSION, because="for --precision int8, which converts the file.")
    elif options.samples is None and options.data is None:
        raise click.UsageError("--precision int8 needs samples: add --calibration or --data.")
    click.echo(f"checking {file}", err=True)
    folder, summaries = importer.accept(file, options, lambda line: click.echo(escaped(line), err=True))
    _print_published(folder, summaries)


def _print_published(folder: Path, summaries: Mapping[str, str]) -> None:
    """Print what was published, and the checks that it passed."""
    click.echo(f"published {folder}")
    for check, summary in summaries.items():
        click.echo(escaped(f"  {check:<12} {summary}"))
    if note := promotion.note(folder):
        click.echo(note, err=True)
