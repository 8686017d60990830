"""``hangtag evaluate`` runs a model on a data set, and prints, writes and draws the model's figures."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from hangtag.evaluation import report
from hangtag.evaluation import samples as evaluated
from hangtag.evaluation.metrics import measure
from hangtag.evaluation.subject import EvaluationError, Subject, of_file, of_run, of_server
from hangtag.extras import needs
from hangtag.options import A_FOLDER, Duration, JsonCommand, SampleOptions, json_option, options_of, refuse, runs_option
from hangtag.output import require_writable, write_text
from hangtag.printable import escaped
from hangtag.serving import model_repository
from hangtag.serving.caller_options import ServerAddress, credentials_options
from hangtag.serving.credentials import Credentials
from hangtag.settings import setting
from hangtag.training.data import sources
from hangtag.training.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class _Options(SampleOptions):
    server: str | None = setting(
        None,
        "Evaluate the model NAME of the server at HOST:PORT (its gRPC port) or http://HOST:PORT.  [default: no server, "
        "even if HANGTAG_SERVER names one]",
        kind=ServerAddress(),
    )
    model_version: str = setting("", "The version of the served model.  [default: the version that serves]")
    timeout: float = setting(
        30.0, "The time limit of each call to a server, such as 30s or 500ms.", kind=Duration(min=0.001)
    )
    split: str = setting("test", "The split of the data set to evaluate.", choices=("validation", "test"))
    dataset: str | None = setting(
        None,
        "The data set to evaluate, which is read and split as 'hangtag train' does. To use all pictures instead of one "
        "split, give --samples.  [default: the data set on which the model was trained, otherwise fashion-mnist or "
        "outfits]",
        flag="--data",
        metavar="SOURCE",
    )
    pictures: Path | None = setting(
        None,
        "Draw mistakes.png (the most confident mistakes) and, for single labels, confusion.png in this folder.",
        kind=A_FOLDER,
        metavar="DIR",
    )


@click.command(cls=JsonCommand)
@click.argument("model", metavar="RUN|FILE.onnx|FOLDER|NAME")
@options_of(_Options)
@runs_option
@json_option("all figures")
@credentials_options
def evaluate(model: str, runs: Path, json_file: str | None, credentials: Credentials, **given: Any) -> None:
    """Measure a finished run, an ONNX file, or a model of a running server by the same figures.

    RUN is a run's folder, the checkpoint in a run's folder, a run's name under --runs, or a network's name, which
    stands for the network's latest finished run. If FOLDER is a model in a repository, such as models/cnn, its served
    version is measured. With --server, NAME is a served model or a route. The figures of a single-label model are
    accuracy, cross-entropy, the expected calibration error, and for garments the severity of mistakes: the mean
    distance between the true and the predicted label ('Shirt' is near 'T-shirt/top' and far from 'Ankle boot'). The
    figures of a multi-label model are the share of images for which exactly the true labels are predicted, and
    precision, recall and F1 as the CNN-RNN paper defines them.

    \b
    Examples:
      hangtag evaluate lstm                                  the latest finished lstm run
      hangtag evaluate models/cnn --pictures reports/cnn
      hangtag evaluate models/flowers --samples folder:new   pictures on which the model was not trained
      hangtag evaluate cnn --server 127.0.0.1:8001 --json    figures for a program
    """
    options = _Options(**given)
    is_served, pictures, samples = options.server is not None, options.pictures, options.samples
    if not is_served:
        refuse("timeout", "model_version", because="only for served models. Name a server with --server.")
    elif model.endswith(".onnx") or "/" in model:
        raise click.UsageError(f"{model} is a file or a folder. With --server, give the NAME of a served model.")
    if not (samples or options.dataset) and (is_served or model.endswith(".onnx")):
        refuse("runs", because=f"{model} is not a run.")
    if samples is not None:
        refuse("split", "dataset", "data_dir", because="--samples replaces the data set.")
    if options.dataset is not None:
        sources.kind_of(options.dataset)  # checked first, because loading the model may take seconds
    if json_file not in (None, "-"):
        require_writable(Path(json_file))
    if pictures is not None:
        require_writable(pictures / "mistakes.png")
        with needs("export", "--pictures"):  # checked first, because evaluating may take minutes
            from hangtag.evaluation import plots
    subject = _opened(model, options, credentials, runs)
    data = evaluated.load(subject, options, options.split, options.dataset, runs)
    images, known = data.content.images, evaluated.used(subject, data.content.images, ["train"], runs)
    for note in (*data.notes, *filter(None, [known])):
        click.echo(escaped(note), err=True)
    subject.require_labels(data.labels)
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bars:
        task = bars.add_task("evaluating", total=len(images))
        outputs = subject.answer(images, partial(bars.advance, task))
    result = measure(subject, outputs, data.content, data.labels)
    console, of = Console(quiet=json_file == "-"), "" if samples else f"{data.split} "
    trial = f" ({subject.details['trial']})" if "trial" in subject.details else ""
    on = f"{trial} on {len(images):,} {of}images of {data.dataset}"
    console.print(Text.assemble((escaped(subject.name), "bold"), escaped(on)), end="\n\n")
    report.show(result, len(images), console)
    if pictures is not None:
        title = f"{subject.name}, {data.dataset if samples else f'{data.split} split'}"
        negated = subject.task == "single_label" and data.image.fit == "garment"
        plots.draw(result, images, title, pictures, negated=negated)
    if json_file is not None:
        write_text(json_file, json.dumps(report.document(subject, data, result), indent=1, allow_nan=False))


def _opened(name: str, options: _Options, credentials: Credentials, runs: Path) -> Subject:
    """Open the named model: on the server if one is given, else as an ONNX file or a model's folder, else as a run."""
    if options.server is not None:
        return of_server(name, options.server, options.model_version, options.timeout, credentials)
    if (file := model_repository.find_file(name)) is not None:
        return of_file(file)
    folder = Path(name)
    if model_repository.is_route(folder.parent, folder.name):
        raise EvaluationError(
            f"{name} is a route, which only a server can run. Evaluate the route on a server: hangtag evaluate "
            f"{folder.name} --server HOST:PORT."
        )
    alternative = "An exported model is named by its file or its folder, such as models/cnn."
    return of_run(Run.find(name, runs, alternative=alternative))
