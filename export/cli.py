"""The commands ``hangtag export``, for networks that hangtag trained, and ``hangtag import``, for other people's."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from hangtag.export import exporter, file_source
from hangtag.export.exporter import Source
from hangtag.export.gate.speed import TIMINGS
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization import agreement
from hangtag.export.quantization.precision import PRECISIONS
from hangtag.export.repository import inventory, promotion
from hangtag.export.third_party import intake
from hangtag.export.third_party.conversion import Request
from hangtag.export.third_party.preprocessing import SCORES
from hangtag.extras import needs
from hangtag.options import FiniteRange, models_option, refuse, runs_option
from hangtag.printable import escaped
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.runs import data as runs_data

_even_if_worse = click.option(
    "--even-if-worse",
    is_flag=True,
    help="Publish also if the version that serves is better, or has no figure to compare with.",
)
_even_if_different = click.option(
    "--even-if-different",
    is_flag=True,
    help="Publish also if the version that serves has other inputs, outputs or labels, which its callers rely on.",
)


def _precision(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help=what)


@click.command()
@click.argument("run", metavar="RUN|FILE.onnx")
@models_option("The model repository to publish into.")
@runs_option
@_precision("fp16 is for GPUs, int8 for CPUs; each is a model of its own, such as cnn-int8.")
@click.option(
    "--timing",
    type=click.Choice(TIMINGS),
    default="compile",
    show_default=True,
    help="What to compare the file's speed with. eager: PyTorch. compile: torch.compile too. none: nothing.",
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
@_even_if_worse
@_even_if_different
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
    if run.endswith(".onnx"):
        if precision == "fp32":
            raise click.UsageError(f"{run} is in FP32: name another --precision.")
        refuse("runs", "calibrate", because="for a run; a file has neither.")
        click.echo(f"exporting {run} in {precision}", err=True)
        source = file_source.of_file(Path(run), data_dir, precision, name)
    else:
        source = _of_run(run, runs, data_dir, precision, name)
    published = exporter.export(
        source,
        models,
        calibrate=calibrate,
        timing=timing,
        even_if_worse=even_if_worse,
        even_if_different=even_if_different,
    )
    trial = inventory.trial(published.metadata)
    summaries = {"TRIAL RUN": trial} if trial else {}
    summaries |= {check.name: check.summary for check in published.proof.checks}
    if published.proof.speed is not None:
        summaries["speed"] = str(published.proof.speed)
    _print_published(published.folder, summaries)


def _of_run(run: str, runs: Path, data_dir: Path | None, precision: str, name: str | None) -> Source:
    with needs("train", "'hangtag export RUN'"):
        from hangtag.export import run_source
        from hangtag.training.runs.run import Run
    chosen = Run.find(run, runs)
    click.echo(f"exporting {chosen.folder} in {precision}", err=True)
    config = chosen.read_config()
    if config.get("dataset") in sources.LABEL_SETS:  # canvases for the proof are composed of garments
        data = fashion_mnist.load(data_dir)
    else:
        data = runs_data.load(config, data_dir)
    return run_source.of_run(chosen, data, precision, name=name)


_CONVERSION = ("samples", "agree_at_least", "agree_on", "search_minutes")
"""The options, by their Python names, that say how a file is converted."""


@click.command("import")
@click.argument("file", metavar="FILE.onnx", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="The model's name in the repository.")
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The labels of the outputs' last axis, one per line, or a JSON list.  [default: those with the file]",
)
@click.option(
    "--preprocessing",
    metavar="STEPS",
    help="How a picture becomes the network's input, as 'size=224x224 fit=crop order=rgb scale=255 mean=R,G,B "
    "std=R,G,B': made to fit, then (pixel / scale - mean) / std. It becomes a part of the file.  [default: what lies "
    "with the file says]",
)
@click.option(
    "--scores",
    type=click.Choice(SCORES),
    help="What the network answers with; logits get a softmax.  [default: probabilities where its last layer is a "
    "softmax, else logits]",
)
@click.option(
    "--data",
    metavar="folder:PICTURES|csv:FILE",
    help="Your pictures with their labels. The accuracy on them is recorded, and compared with that of the version "
    "that serves.",
)
@models_option("The model repository to publish into.")
@_even_if_worse
@_even_if_different
@_precision("Convert the file: fp16 is for GPUs, int8 for CPUs. Both need --calibration, or --data.")
@click.option(
    "--calibration",
    "samples",
    type=click.Path(path_type=Path),
    metavar="FILE.npz|FOLDER",
    help="With --precision: samples, as arrays named like the inputs, or as a folder of pictures. Half of them make "
    "the file, the others prove it.  [default: the pictures of --data]",
)
@click.option(
    "--agree-at-least",
    type=FiniteRange(min=50, max=100),
    metavar="PERCENT",
    help="With --precision: of the samples, so many must be answered like by the original. Layers stay in FP32 where "
    "that needs it.  [default: 99 for int8, 99.9 for fp16]",
)
@click.option(
    "--agree-on",
    multiple=True,
    metavar=f"OUTPUT={'|'.join(agreement.RULES)}",
    help="With --precision: compare this output, by its largest score, its values, or exactly; may be repeated.  "
    "[default: every output, as fits it]",
)
@click.option(
    "--search-minutes",
    type=FiniteRange(min=0, max=600),
    default=10,
    show_default=True,
    help="With --precision: the most time for measuring which layers are sensitive.",
)
def import_file(
    file: Path,
    name: str,
    labels: Path | None,
    preprocessing: str | None,
    scores: str | None,
    data: str | None,
    models: Path,
    even_if_worse: bool,
    even_if_different: bool,
    precision: str,
    samples: Path | None,
    agree_at_least: float | None,
    agree_on: tuple[str, ...],
    search_minutes: float,
) -> None:
    """Publish somebody else's ONNX FILE as the next version of a model.

    The file is checked and run in a process of its own, on the same inputs alone and together, to find out whether its
    requests may be batched.

    With --preprocessing the network becomes a classifier of pictures: the published file takes UINT8 pictures, prepares
    them itself, and answers with probabilities of --labels, so that 'hangtag classify' and the page take any picture.
    It is proven against the bare network, whose pictures Pillow and NumPy prepare. What timm's or Hugging Face's
    config.json and preprocessor_config.json say, and Ultralytics' metadata, is taken where it lies with the file;
    options win.

    With --precision the file is converted, and must then answer the samples as before; which layers stay in FP32 for
    that is searched. Without preprocessing the file is published as it is, for inference alone.

    \b
    Examples:
      hangtag import resnet.onnx --name resnet --labels imagenet.txt --preprocessing "size=224x224 fit=crop scale=255
          mean=0.485,0.456,0.406 std=0.229,0.224,0.225"
      hangtag import vit/model.onnx --name vit --data folder:photos     with a preprocessor_config.json in vit
      hangtag import vit/model.onnx --name vit-int8 --data folder:photos --precision int8
      hangtag import encoder.onnx --name encoder                        any other network
    """
    if preprocessing is not None and not preprocessing.strip():
        raise click.UsageError("--preprocessing is empty: leave it out, or state the steps.")
    request = None
    if precision == "fp32":
        refuse(*_CONVERSION, because="for --precision int8 or fp16, which converts the file.")
    elif samples is None and data is None:
        raise click.UsageError(f"--precision {precision} needs samples: add --calibration or --data.")
    else:
        request = Request(
            precision,
            samples,
            TOLERANCES[precision].agreement if agree_at_least is None else agree_at_least / 100,
            agreement.parse(agree_on),
            search_seconds=60 * search_minutes,
        )
    click.echo(f"checking {file}", err=True)
    folder, summaries = intake.accept(
        file,
        name,
        models,
        labels=labels,
        preprocessing=preprocessing,
        scores=scores,
        pictures=data,
        request=request,
        even_if_worse=even_if_worse,
        even_if_different=even_if_different,
        progress=lambda line: click.echo(escaped(line), err=True),
    )
    _print_published(folder, summaries)


def _print_published(folder: Path, summaries: Mapping[str, str]) -> None:
    """Print what was published, and the checks that it passed."""
    click.echo(f"published {folder}")
    for check, summary in summaries.items():
        click.echo(escaped(f"  {check:<12} {summary}"))
    if note := promotion.note(folder):
        click.echo(note, err=True)
