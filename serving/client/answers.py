"""Print what one model or several models answered for a picture: the labels side by side, with the times."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hangtag.printable import counted, escaped, printable
from hangtag.serving.client import picture_files
from hangtag.serving.client.classification import Classification, Label
from hangtag.serving.connection.errors import ClientError

Outcomes = Mapping[str, Classification | ClientError]
"""The name of a model, as the user wrote it -> the model's answer, or its failure."""


def print_json(path: Path, outcomes: Outcomes, warning: str) -> None:
    """Print the outcomes for a picture as one line of JSON."""
    models = [{"model": model} | _fields(outcome) for model, outcome in outcomes.items()]
    answer = models[0] if len(models) == 1 else {"models": models}
    click.echo(json.dumps({"image": str(path)} | answer | ({"warning": warning} if warning else {})))


def show(console: Console, title: str, image: bytes | None, outcomes: Outcomes, warning: str) -> None:
    """Print the answers for a picture as a table, to the right of the picture if ``image`` is given."""
    answers = printable([outcome for outcome in outcomes.values() if isinstance(outcome, Classification)])
    if answers:
        heading = Text(title + (_verdict(answers) if len(outcomes) > 1 else _set(answers[0])), style="italic")
        picture_files.print_with_image(console, image, Group(heading, _table(answers)))
        if warning:
            console.print(Text.assemble(("WARNING ", "bold yellow"), warning))
        console.print()


def show_failures(path: Path, outcomes: Outcomes) -> bool:
    """Print the failures of models on standard error, and return whether there are any."""
    failures = {model: outcome for model, outcome in outcomes.items() if isinstance(outcome, ClientError)}
    for model, failure in failures.items():
        click.echo(f"{path}: {model}: {escaped(str(failure))}", err=True)
    return bool(failures)


def _table(answers: Sequence[Classification]) -> Table:
    """Make a table with a column for each model and a row for each rank. Labels on which the models differ at that rank
    are bold."""
    result = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True, footer_style="dim")
    for answer in answers:
        # fold wraps a long text instead of cutting it off
        result.add_column(Text(f"{answer.model} version {answer.version}"), Text(_costs(answer)), overflow="fold")
    for rank in zip_longest(*(answer.labels for answer in answers)):
        agreed = len({label and label.name for label in rank}) == 1
        result.add_row(*(_cell(label, agreed) for label in rank))
    return result


def _costs(answer: Classification) -> str:
    """Say how long the answer took, and for a route which members computed, and which of them answered."""
    lines = [f"{answer.queue_ms:.1f} ms queued, {answer.compute_ms:.1f} ms computed"]
    if answer.stages:
        lines.append(f"answered by {answer.answered_by}" + (", which was not sure" if answer.unsure else ""))
    if len(answer.stages) > 1:
        lines += [f"{stage.model}: {stage.queue_ms + stage.compute_ms:.1f} ms" for stage in answer.stages]
    return "\n".join(lines)


def _cell(label: Label | None, agreed: bool) -> Text:
    if label is None:
        return Text("")
    distance = f"  distance {label.distance:.2f}" if label.distance else ""
    return Text(f"{label.probability:7.2%}  {label.name}{distance}", style="" if agreed else "bold")


def _verdict(answers: Sequence[Classification]) -> str:
    """Say whether the models agree on the first label, or, if one of them is a multi-label model, on the whole set."""
    if len(answers) == 1:
        return f": only {answers[0].model} answered"
    sets = any(answer.task == "multi_label" for answer in answers)
    predictions = {frozenset(label.name for label in answer.labels[: None if sets else 1]) for answer in answers}
    return f": {len(answers)} models {'agree' if len(predictions) == 1 else 'differ'}"


def _set(answer: Classification) -> str:
    """Say how large the set of a multi-label model is, and how probable the whole set is."""
    if answer.task != "multi_label":
        return ""
    whole = "" if answer.path_probability is None else f"; {answer.path_probability:.2%} for the whole set"
    return f": {counted(len(answer.labels), 'label', 'labels')}{whole}"


def _fields(outcome: Classification | ClientError) -> dict[str, Any]:
    if isinstance(outcome, ClientError):
        return {"error": str(outcome), "code": outcome.code.name}
    fields = asdict(outcome, dict_factory=lambda items: {key: value for key, value in items if value is not None})
    if outcome.stages:
        return fields | {"answered_by": outcome.answered_by}
    return {name: value for name, value in fields.items() if name not in ("stages", "unsure")}
