"""Show several models' classifications of one image side by side: a column for each, with its timings below."""

from collections.abc import Sequence
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from hangtag.serving.client.classification import Classification, Label


def table(answers: Sequence[Classification]) -> Table:
    """Make a table with a row for each rank; labels on which the models differ at that rank are bold."""
    result = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True, footer_style="dim")
    for answer in answers:
        timings = Text(f"{answer.queue_ms:.1f} ms queued\n{answer.compute_ms:.1f} ms computed")
        if answer.stages:
            timings.append(f"\nanswered by {answer.answered_by}")
        result.add_column(Text(f"{answer.model} version {answer.version}"), timings, no_wrap=True)
    for rank in zip_longest(*(answer.labels for answer in answers)):
        agreed = len({label and label.name for label in rank}) == 1
        result.add_row(*(_cell(label, agreed) for label in rank))
    return result


def verdict(answers: Sequence[Classification]) -> str:
    """Say whether the models agree on the first label, or, if one of them is a multi-label model, on the whole set."""
    if len(answers) == 1:
        return f"only {answers[0].model} answered"
    sets = any(answer.task == "multi_label" for answer in answers)
    predictions = {frozenset(label.name for label in answer.labels[: None if sets else 1]) for answer in answers}
    return f"{len(answers)} models agree" if len(predictions) == 1 else f"{len(answers)} models differ"


def _cell(label: Label | None, agreed: bool) -> Text:
    if label is None:
        return Text("")
    return Text(f"{label.probability:7.2%}  {label.name}", style="" if agreed else "bold")
