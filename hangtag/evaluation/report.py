"""Prints an evaluation as tables, and writes it as JSON for programs.

The function `document` and the result's class define the fields of the JSON. Adding a field does not change the
schema's version. The rows and columns of the confusion matrix are in the order of the field `labels`; all other fields
give labels by name.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.evaluation.multi_label import MultiLabelResult
from hangtag.evaluation.samples import Samples
from hangtag.evaluation.single_label import SingleLabelResult
from hangtag.evaluation.subject import Subject
from hangtag.printable import escaped
from hangtag.tables import table
from hangtag.training.metrics.class_metrics import ClassFigures

SCHEMA = "hangtag.evaluation/2"
MISTAKES = 100
"""A document lists at most this many mistakes, the most confident ones."""
_FIGURES = {
    "exact_match": ("exact match", "share of images whose whole set is right"),
    "o_precision": ("O-P", "overall precision, over all predicted labels"),
    "o_recall": ("O-R", "overall recall, over all true labels"),
    "o_f1": ("O-F1", "their harmonic mean"),
    "c_precision": ("C-P", "precision, the mean over labels"),
    "c_recall": ("C-R", "recall, the mean over labels"),
    "c_f1": ("C-F1", "their harmonic mean"),
    "mean_ap": ("mAP", "mean average precision"),
    "labels_per_image": ("labels", "mean number of predicted labels per image"),
}
_MOST_COLUMNS = 12  # labels in a confusion matrix; if there are more, the most frequent mistakes are listed
_MOST_PAIRS = 20
_MOST_CLASSES = 40  # rows in the table of classes, which lists those with the lowest F1
_SHORT = 5  # characters of a label above a column of the confusion matrix


def document(subject: Subject, data: Samples, result: SingleLabelResult | MultiLabelResult) -> dict[str, Any]:
    """Build the document of an evaluation.

    For a run, the field `details` has the run's folder and model, and whether the run is a trial. For a served model,
    the field has the server's address and the model's version. The field `split` is "samples" for the user's own
    pictures.
    """
    classes = zip(result.labels, result.classes, strict=True)
    return {
        "schema": SCHEMA,
        "subject": {
            "kind": subject.kind,
            "name": subject.name,
            "task": subject.task,
            "details": dict(subject.details),
        },
        "data": {"dataset": data.dataset, "split": data.split, "images": len(data), "source": data.source},
        **asdict(result),
        "classes": [{"label": label, **asdict(figures)} for label, figures in classes],
        "mistakes": [asdict(mistake) for mistake in result.mistakes[:MISTAKES]],
    }


def show(result: SingleLabelResult | MultiLabelResult, console: Console) -> None:
    """Print the figures of the model, then the figures of each label, and for single labels the confusion matrix."""
    figures = _single_label(result) if isinstance(result, SingleLabelResult) else _multi_label(result)
    console.print(figures, highlight=False)
    console.print()
    console.print(_classes(result.labels, result.classes))
    if isinstance(result, SingleLabelResult):
        console.print()
        few = len(result.labels) <= _MOST_COLUMNS
        console.print(_confusion(result.labels, result.confusion) if few else _mixed_up(result))


def _single_label(result: SingleLabelResult) -> Table:
    images = sum(figures.support for figures in result.classes)
    summary = Table.grid(padding=(0, 2))
    summary.add_row("accuracy", f"{result.accuracy:.2%}", f"{len(result.mistakes):,} of {images:,} images wrong")
    summary.add_row("cross-entropy", f"{result.loss:.4f}", "mean, in nats")
    summary.add_row("calibration error", f"{result.calibration_error:.2%}", "mean gap between confidence and accuracy")
    if result.severity is not None:
        summary.add_row(
            "severity of mistakes", f"{result.severity:.4f}", "mean distance between true and predicted label"
        )
    if result.second is not None:
        summary.add_row("true label second", f"{result.second:.2%}", "of mistakes have the true label in second place")
    return summary


def _multi_label(result: MultiLabelResult) -> Table:
    """Make a table of the figures that the CNN-RNN paper uses."""
    summary = Table.grid(padding=(0, 2))
    for key, (name, meaning) in _FIGURES.items():
        value = result.figures[key]
        summary.add_row(name, f"{value:.2f}" if key == "labels_per_image" else f"{value:.2%}", meaning)
    return summary


def _classes(labels: Sequence[str], classes: Sequence[ClassFigures]) -> Table:
    shown = list(zip(labels, classes, strict=True))
    left_out = max(0, len(shown) - _MOST_CLASSES)
    if left_out:
        shown = sorted(shown, key=lambda row: row[1].f1)[:_MOST_CLASSES]
    rows = [
        (label, f"{each.precision:.1%}", f"{each.recall:.1%}", f"{each.f1:.1%}", f"{each.support:,}")
        for label, each in shown
    ]
    right = ("precision", "recall", "F1", "images")
    made = table(("class", *right), rows, right)
    if left_out:
        made.title, made.title_justify = f"{left_out} classes with a higher F1 are only in --json", "left"
        made.title_style = "dim"
    return made


def _mixed_up(result: SingleLabelResult) -> Table:
    """Make a table of the pairs of labels that the model confuses most often."""
    pairs = Counter((mistake.true, mistake.predicted) for mistake in result.mistakes)
    rows = [(true, predicted, f"{count:,}") for (true, predicted), count in pairs.most_common(_MOST_PAIRS)]
    return table(("true class", "taken for", "images"), rows, right=("images",))


def _confusion(labels: Sequence[str], confusion: list[list[int]]) -> Table:
    """Make the table of the confusion matrix: rows are true classes, and columns are predicted classes.

    Zeros are left blank, and the most frequent mistakes are red.
    """
    worst = max(max((count for j, count in enumerate(row) if j != i), default=0) for i, row in enumerate(confusion))
    made = Table(title="true class (rows), taken for (columns)", title_justify="left", title_style="dim")
    made.box, made.pad_edge, made.padding, made.header_style = None, False, (0, 1, 0, 0), "dim"  # 80 columns wide
    made.add_column("", no_wrap=True)
    heads = [label[:_SHORT].rstrip() for label in labels]
    if len(set(heads)) < len(heads):  # shortened names are not unique, so number the columns
        heads = [str(number) for number, _ in enumerate(labels, 1)]
        labels = [f"{head} {label}" for head, label in zip(heads, labels, strict=True)]
    for head in heads:
        made.add_column(Text(escaped(head)), justify="right", no_wrap=True, min_width=_SHORT)
    for i, (label, row) in enumerate(zip(labels, confusion, strict=True)):
        made.add_row(Text(escaped(label)), *(_cell(count, i == j, worst) for j, count in enumerate(row)))
    return made


def _cell(count: int, right: bool, worst: int) -> Text:
    if right:
        return Text(f"{count:,}", style="green")
    return Text(f"{count:,}" if count else "", style="bold red" if count > worst / 2 else "")
