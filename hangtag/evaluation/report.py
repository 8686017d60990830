"""Prints an evaluation as tables, and writes it as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hangtag.evaluation.metrics import Result
from hangtag.evaluation.samples import Samples
from hangtag.evaluation.subject import Subject
from hangtag.tables import table

_SCHEMA = "hangtag.evaluation/2"
_MISTAKES = 100
"""A document lists at most this many mistakes, the most confident ones."""
_FIGURES = {
    "accuracy": ("accuracy", ".2%", "{wrong:,} of {images:,} images wrong"),
    "loss": ("cross-entropy", ".4f", "mean, in nats"),
    "calibration_error": ("calibration error", ".2%", "mean gap between confidence and accuracy"),
    "severity": ("severity of mistakes", ".4f", "mean distance between true and predicted label"),
    "second": ("true label second", ".2%", "of mistakes have the true label in second place"),
    "exact_match": ("exact match", ".2%", "share of images for which exactly the true labels are predicted"),
    "o_precision": ("O-P", ".2%", "overall precision, over all predicted labels"),
    "o_recall": ("O-R", ".2%", "overall recall, over all true labels"),
    "o_f1": ("O-F1", ".2%", "their harmonic mean"),
    "c_precision": ("C-P", ".2%", "precision, the mean over labels"),
    "c_recall": ("C-R", ".2%", "recall, the mean over labels"),
    "c_f1": ("C-F1", ".2%", "their harmonic mean"),
    "mean_ap": ("mAP", ".2%", "mean average precision"),
    "labels_per_image": ("labels", ".2f", "mean number of predicted labels per image"),
}
"""The name, the format and the meaning of each metric, in the order of the table."""
_MOST_COLUMNS = 12  # labels in a confusion matrix; if there are more, the most frequent mistakes are listed
_MOST_PAIRS = 20
_SHORT = 5  # the number of characters of a label above a column of the confusion matrix


def document(subject: Subject, data: Samples, result: Result) -> dict[str, Any]:
    """Build the document of an evaluation. Adding a field does not change the schema's version.

    The rows and columns of the confusion matrix are in the order of ``labels``; all other fields name labels. The split
    of the user's own pictures is "samples".
    """
    single = result.confusion is not None
    classes = zip(result.labels, result.classes, strict=True)
    return {
        "schema": _SCHEMA,
        "subject": {key: getattr(subject, key) for key in ("kind", "name", "task", "details")},
        "data": {"dataset": data.dataset, "split": data.split, "images": len(data.content), "source": data.source},
        **({**result.figures, "confusion": result.confusion} if single else {"figures": result.figures}),
        "labels": result.labels,
        "classes": [{"label": label, **asdict(figures)} for label, figures in classes],
        "mistakes": [asdict(mistake) for mistake in result.mistakes[:_MISTAKES]],
    }


def show(result: Result, images: int, console: Console) -> None:
    """Print the metrics of the model, then the metrics of each label, and for single labels the confusion matrix."""
    figures = Table.grid(padding=(0, 2))
    for key, (name, form, meaning) in _FIGURES.items():
        if (value := result.figures.get(key)) is not None:
            figures.add_row(name, format(value, form), meaning.format(wrong=len(result.mistakes), images=images))
    console.print(figures, highlight=False)
    console.print()
    console.print(_classes(result))
    if result.confusion is not None:
        console.print()
        few = len(result.labels) <= _MOST_COLUMNS
        console.print(_confusion(result.labels, result.confusion) if few else _mixed_up(result))


def _classes(result: Result) -> Table:
    rows = [
        (label, f"{each.precision:.1%}", f"{each.recall:.1%}", f"{each.f1:.1%}", f"{each.support:,}")
        for label, each in zip(result.labels, result.classes, strict=True)
    ]
    right = ("precision", "recall", "F1", "images")
    return table(("class", *right), rows, right)


def _mixed_up(result: Result) -> Table:
    """Make a table of the pairs of labels that the model confuses most often."""
    pairs = Counter((str(mistake.true), str(mistake.predicted)) for mistake in result.mistakes)
    rows = [(true, predicted, f"{count:,}") for (true, predicted), count in pairs.most_common(_MOST_PAIRS)]
    return table(("true class", "taken for", "images"), rows, right=("images",))


def _confusion(labels: Sequence[str], confusion: list[list[int]]) -> Table:
    """Make the table of the confusion matrix. Zeros are left blank, and the most frequent mistakes are red."""
    worst = max(max((count for j, count in enumerate(row) if j != i), default=0) for i, row in enumerate(confusion))
    heads = [label[:_SHORT].rstrip() for label in labels]
    if len(set(heads)) < len(heads):  # shortened names are not unique, so number the columns
        heads = [str(number) for number, _ in enumerate(labels, 1)]
        labels = [f"{head} {label}" for head, label in zip(heads, labels, strict=True)]
    rows = list[tuple[str | Text, ...]]()
    for i, (label, row) in enumerate(zip(labels, confusion, strict=True)):
        cells = [Text(f"{count:,}" if count else "", "bold red" if count > worst / 2 else "") for count in row]
        cells[i] = Text(f"{row[i]:,}", "green")
        rows.append((label, *cells))
    made = table(("", *heads), rows, right=heads, title="true class (rows), predicted class (columns)")
    made.padding = (0, 1, 0, 0)  # ten labels fit into 80 columns
    return made
