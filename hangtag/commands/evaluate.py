"""``hangtag evaluate`` runs a model on a data set, and prints, writes and draws the model's figures."""

import json
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from hangtag.evaluation import multi_label, report, single_label
from hangtag.evaluation import samples as evaluated
from hangtag.evaluation.subject import EvaluationError, Subject, require_labels
from hangtag.extras import needs
from hangtag.options import (
    Duration,
    JsonCommand,
    data_dir_option,
    json_option,
    limit_option,
    refuse,
    runs_option,
    samples_option,
)
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.serving import model_repository
from hangtag.serving.caller_options import ServerAddress, credentials_options
from hangtag.serving.credentials import Credentials
from hangtag.training.data import sources


@click.command(cls=JsonCommand)
@click.argument("model", metavar="RUN|FILE.onnx|FOLDER|NAME")
@click.option(
    "--server",
    type=ServerAddress(),
    help="Evaluate the model NAME of the server at HOST:PORT (its gRPC port) or http://HOST:PORT.  [default: no "
    "server, even if HANGTAG_SERVER names one]",
)
@click.option(
    "--model-version",
    default="",
    help="The version of the served model.  [default: the version that serves]",
)
@click.option(
    "--timeout",
    type=Duration(min=0.001),
    default=30.0,
    show_default=True,
    help="The time limit of each call to a server, such as 30 or 500ms.",
)
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="The split of the data set to evaluate.",
)
@click.option(
    "--data",
    "dataset",
    metavar="SOURCE",
    help="The data set to evaluate, which is read and split as 'hangtag train' does. To use all pictures instead of "
    "one split, give --samples.  [default: the data set on which the model was trained, otherwise fashion-mnist or "
    "outfits]",
)
@samples_option
@limit_option
@data_dir_option
@runs_option
@json_option("all figures")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw mistakes.png (the most confident mistakes) and, for single labels, confusion.png in this folder.",
)
@credentials_options
def evaluate(
    model: str,
    server: str | None,
    model_version: str,
    timeout: float,
    split: str,
    dataset: str | None,
    samples: str | None,
    limit: int | None,
    data_dir: Path | None,
    runs: Path,
    json_file: str | None,
    pictures: Path | None,
    credentials: Credentials,
) -> None:
    """Measure a finished run, an ONNX file, or a model of a running server by the same figures.

    RUN is a run's folder, the checkpoint in a run's folder, a run's name under --runs, or a network's name, which
    stands for the network's latest finished run. FOLDER is a model in a repository, such as models/cnn, and stands for
    the version that serves.
    With --server, NAME is a served model or a route. The figures of a single-label model are accuracy, cross-entropy,
    the expected calibration error, and for garments the severity of mistakes: the mean distance between the true and
    the predicted label ('Shirt' is near 'T-shirt/top' and far from 'Ankle boot'). The figures of a multi-label model
    are the share of exact sets, and the CNN-RNN paper's precision, recall and F1.

    \b
    Examples:
      hangtag evaluate lstm                                  the latest finished lstm run
      hangtag evaluate models/cnn --pictures reports/cnn
      hangtag evaluate models/flowers --samples folder:new   pictures on which the model was not trained
      hangtag evaluate cnn --server 127.0.0.1:8001 --json    figures for a program
    """
    if server is None:
        refuse("timeout", "model_version", because="only for served models. Name a server with --server.")
    elif model.endswith(".onnx") or "/" in model:
        raise click.UsageError(f"{model} is a file or a folder. With --server, give the NAME of a served model.")
    if not (samples or dataset) and (server is not None or model.endswith(".onnx")):
        refuse("runs", because=f"{model} is not a run.")
    if samples is not None:
        refuse("split", "dataset", "data_dir", because="--samples replaces the data set.")
    if dataset is not None:
        sources.kind_of(dataset)  # checked first, because loading the model may take seconds
    if json_file not in (None, "-"):
        require_writable(Path(json_file))
    if pictures is not None:
        require_writable(pictures / "mistakes.png")
        with needs("export", "--pictures"):  # checked first, because evaluating may take minutes
            from hangtag.evaluation import plots as drawing
    subject = _opened(model, server, model_version, timeout, credentials, runs)
    data = evaluated.load(subject, split, limit, data_dir, dataset, samples, runs)
    images, known = data.content.images, evaluated.used(subject, data.content.images, ["train"], runs)
    for note in (*data.notes, *filter(None, [known])):
        click.echo(escaped(note), err=True)
    require_labels(subject, data.labels)
    errors = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        task = bars.add_task("", total=len(images))
        outputs = subject.answer(images, partial(bars.advance, task))
    if subject.task == "single_label":
        result = single_label.measure(outputs, data.content, data.labels, subject.name)
    else:
        result = multi_label.measure(subject, outputs, data.content.classes, data.labels)
    console, of = Console(quiet=json_file == "-"), "" if samples else f"{data.split} "
    trial = f" ({subject.details['trial']})" if "trial" in subject.details else ""
    on = f"{trial} on {len(images):,} {of}images of {data.dataset}"
    console.print(Text.assemble((escaped(subject.name), "bold"), escaped(on)), end="\n\n")
    report.show(result, len(images), console)
    if pictures is not None:
        title = f"{subject.name}, {data.dataset if samples else f'{data.split} split'}"
        negated = subject.task == "single_label" and data.image.fit == "garment"
        drawing.draw(result, images, title, pictures, negated=negated)
    if json_file is not None:
        write_text(json_file, json.dumps(report.document(subject, data, result), indent=1, allow_nan=False))


def _opened(
    name: str, server: str | None, version: str, timeout: float, credentials: Credentials, runs: Path
) -> Subject:
    """Open the named model: on the server if one is given, else as an ONNX file or a model's folder, else as a run.

    Evaluating a served model does not import ONNX Runtime, and evaluating a file does not import PyTorch.
    """
    if server is not None:
        from hangtag.evaluation.served_subject import ServedSubject

        return ServedSubject(name, server, version, timeout, credentials)
    if (file := model_repository.find_file(name)) is not None:
        with needs("cpu", "evaluating an ONNX file"):
            from hangtag.evaluation.file_subject import FileSubject
        return FileSubject(file)
    folder = Path(name)
    if model_repository.is_route(folder.parent, folder.name):
        raise EvaluationError(
            f"{name} is a route, which only a server can run. Evaluate the route on a server: hangtag evaluate "
            f"{folder.name} --server HOST:PORT."
        )
    with needs("train", "evaluating a run"):
        from hangtag.evaluation.run_subject import RunSubject
        from hangtag.training.runs.run import Run
    alternative = "An exported model is named by its file or its folder, such as models/cnn."
    return RunSubject(Run.find(name, runs, alternative=alternative))
