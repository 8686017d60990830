"""Several models' answers to one image, side by side: a column each, with what it cost below."""

from collections.abc import Sequence
from itertools import zip_longest

from rich.table import Table
from rich.text import Text

from hangtag.serving.client.classification import Classification, Label


def table(answers: Sequence[Classification]) -> Table:
    """A row for each place among the labels; labels that not every model has at that place are bold."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True, footer_style="dim")
    for answer in answers:
        cost = Text(f"{answer.queue_ms:.1f} ms queued\n{answer.compute_ms:.1f} ms computed")
        made.add_column(Text(f"{answer.model} version {answer.version}"), cost, no_wrap=True)
    for place in zip_longest(*(answer.labels for answer in answers)):
        agreed = len({label and label.name for label in place}) == 1
        made.add_row(*(_told(label, agreed) for label in place))
    return made


def verdict(answers: Sequence[Classification]) -> str:
    """Whether the models say the same: the same first label, or where one answers with a set, the same set."""
    if len(answers) == 1:
        return f"only {answers[0].model} answered"
    sets = any(answer.task == "multi_label" for answer in answers)
    said = {frozenset(label.name for label in answer.labels[: None if sets else 1]) for answer in answers}
    return f"{len(answers)} models agree" if len(said) == 1 else f"{len(answers)} models differ"


def _told(label: Label | None, agreed: bool) -> Text:
    if label is None:
        return Text("")
    return Text(f"{label.probability:7.2%}  {label.name}", style="" if agreed else "bold")
