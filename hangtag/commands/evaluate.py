"""``hangtag evaluate``: name what is evaluated, ask it, render what came of it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hangtag.evaluation import document, label_sources, multi_label, samples, single_label, subjects, table
from hangtag.evaluation.subject import require_labels
from hangtag.extras import needs
from hangtag.options import FiniteRange, refuse, runs_option
from hangtag.output import require_writable, write_text
from hangtag.serving.credentials import Credentials
from hangtag.serving.options import credentials_options
from hangtag.training.data.datasets import DATASETS
from hangtag.training.data.fashion_mnist import LABELS, Split
from hangtag.training.labels import distance as label_distance


@click.command()
@click.argument("model", metavar="RUN|FILE.onnx|FOLDER|NAME")
@click.option("--server", metavar="HOST:PORT", help="Evaluate the model NAME of this running server.")
@click.option(
    "--model-version", default="", help="A certain version of a served model.  [default: the one that serves]"
)
@click.option(
    "--timeout", type=FiniteRange(min=0.001), default=30.0, show_default=True, help="Seconds per call to a server."
)
@click.option(
    "--split", type=click.Choice(["validation", "test"]), default="test", show_default=True, help="What to ask about."
)
@click.option(
    "--data",
    "dataset",
    type=click.Choice(DATASETS),
    help="The data set to ask about.  [default: what the model learned from, else fashion-mnist or outfits]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images: for quick trials.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files, or with VOCdevkit."
)
@runs_option
@click.option(
    "--distances",
    metavar="RUN|FILE.onnx|FILE.json",
    help="What tells how bad a mistake of a single-label model is: a run, an ONNX file, or JSON of 'hangtag labels'.  "
    "[default: what ships]",
)
@click.option("--json", "json_file", metavar="FILE", help="Write all figures as JSON; - is standard output.")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw mistakes.png there, the most confident ones, and for single labels confusion.png, the confusion matrix.",
)
@credentials_options
def evaluate(
    model: str,
    server: str | None,
    model_version: str,
    timeout: float,
    split: str,
    dataset: str | None,
    limit: int | None,
    data_dir: Path | None,
    runs: Path,
    distances: str | None,
    json_file: str | None,
    pictures: Path | None,
    credentials: Credentials,
) -> None:
    """Say how good a model is: a finished run, an ONNX file, or a model of a running server, with the same numbers.

    RUN is a run's folder or the checkpoint in it, its name under --runs, or a model's name: then its latest finished
    run is taken. FOLDER is a model's in a repository, as models/cnn, whose latest version is taken. With --server NAME
    is a model there. Besides accuracy and cross-entropy this tells how bad the mistakes are: the mean distance of the
    labels that were mixed up, where 'Shirt' for 'T-shirt/top' is near and for 'Ankle boot' far. Of a model of several
    labels it tells how many sets are right, and precision, recall and F1 as the CNN-RNN paper does.

    \b
    Examples:
      hangtag evaluate lstm                                  the latest finished lstm run
      hangtag evaluate models/cnn --pictures reports/cnn
      hangtag evaluate cnn --server 127.0.0.1:8001 --json -  figures for a program
    """
    _refuse_what_goes_unused(model, server, distances)
    measured_by = label_distance.default() if distances is None else label_sources.find(distances, runs)
    measured_by.require(LABELS)
    if json_file not in (None, "-"):
        require_writable(Path(json_file))
    if pictures is not None:
        require_writable(pictures / "mistakes.png")
        with needs("train", "--pictures"):  # now, not after minutes of computing
            from hangtag.evaluation import pictures as drawing
    with subjects.find(
        model, runs_dir=runs, server=server, version=model_version, timeout=timeout, credentials=credentials
    ) as subject:
        if subject.task == "multi_label":
            refuse("distances", because=f"{subject.name} answers with sets of labels; distances are of single ones.")
        asked = samples.load(subject, split, limit, data_dir, dataset)
        require_labels(subject, asked.labels)
        with _progress(len(asked)) as report:
            outputs = subject.answer(asked.images, report)
    quiet = json_file == "-"
    about: document.DataDocument = {
        "dataset": asked.dataset,
        "split": split,
        "images": len(asked),
        "source": asked.source,
    }
    console = Console(quiet=quiet)
    trial = f" ({subject.details['trial']})" if "trial" in subject.details else ""
    console.print(
        f"[bold]{escape(subject.name)}[/]{trial} on {len(asked):,} {split} images of {asked.dataset}\n", highlight=False
    )
    written: document.SingleLabelDocument | document.MultiLabelDocument
    if isinstance(asked.content, Split):
        result = single_label.measure(outputs, asked.content, measured_by, subject.name)
        table.single_label(result, console)
        written = document.single_label(subject, about, result, measured_by)
        if pictures is not None:
            drawing.single_label(result, asked.images, f"{subject.name}, {split} split", pictures)
    else:
        sets = multi_label.measure(subject, outputs, asked.content.labels, asked.labels)
        table.multi_label(sets, console)
        written = document.multi_label(subject, about, sets)
        if pictures is not None:
            drawing.multi_label(sets, asked.images, f"{subject.name}, {split} split", pictures)
    if json_file is not None:
        write_text(json_file, json.dumps(written, indent=1, allow_nan=False))


def _refuse_what_goes_unused(model: str, server: str | None, distances: str | None) -> None:
    if server is None:
        refuse("timeout", "model_version", because="of a served model; name its server with --server.")
    elif not re.fullmatch(r"\[?[^\s\[\]]+\]?:\d{1,5}", server):
        raise click.UsageError(f"--server {server}: name it as HOST:PORT, for example 127.0.0.1:8001.")
    elif model.endswith(".onnx") or "/" in model:
        raise click.UsageError(f"{model} is a file or a folder; with --server, give the NAME of a model there.")
    if distances is None and (server is not None or model.endswith(".onnx")):
        refuse("runs", because=f"{model} is not looked for among runs.")


@contextmanager
def _progress(images: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where a person looks at it; gives the function that counts answered images."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("evaluating", total=images)
        yield lambda answered: bars.advance(task, answered)
