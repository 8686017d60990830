"""The command ``hangtag import``."""

from dataclasses import replace
from pathlib import Path

import click

from hangtag.export import report, terminal
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.export.quantization import agreement
from hangtag.export.quantization.conversion import Request
from hangtag.export.third_party import intake
from hangtag.export.third_party.document import MAX_BYTES
from hangtag.export.third_party.preprocessing import SCORES
from hangtag.options import FiniteRange, models_option, refuse
from hangtag.printable import escaped

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
@terminal.reports_option
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0.001, max=MAX_BYTES / 1e6),
    default=MAX_BYTES // 10**6,
    show_default=True,
    help="A larger file, external data included, is refused.",
)
@terminal.even_if_worse_option
@terminal.even_if_different_option
@terminal.precision_option("Convert the file: fp16 is for GPUs, int8 for CPUs. Both need --calibration, or --data.")
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
    reports: Path,
    max_megabytes: float,
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
            "" if samples is None else str(samples),
            TOLERANCES[precision].agreement if agree_at_least is None else agree_at_least / 100,
            agreement.parse(agree_on),
            search_seconds=60 * search_minutes,
        )
    options = intake.Options(
        labels,
        preprocessing,
        scores,
        data,
        int(max_megabytes * 1e6),
        request,
        even_if_different=even_if_different,
    )

    def publish(even_if_worse: bool) -> intake.Accepted:
        return intake.accept(
            file,
            name,
            models,
            replace(options, even_if_worse=even_if_worse),
            lambda line: click.echo(escaped(line), err=True),
        )

    click.echo(f"checking {file}", err=True)
    with terminal.interruption_reported(models, name):
        accepted = terminal.even_if_worse(publish, asked=even_if_worse)
        page = report.report_path(reports, accepted.folder)
        report.write_file_report(accepted, page)
        terminal.print_published(accepted.folder, accepted.summaries, page)
