"""Print what models answered: the labels of one model, or of several side by side, with the times of the answers."""

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

from hangtag.printable import escaped, printable
from hangtag.serving.client import picture_files
from hangtag.serving.client.classification import Classification, Label
from hangtag.serving.connection.errors import ClientError


def show(
    console: Console,
    path: Path,
    title: str,
    data: bytes,
    answer: Classification,
    warning: str,
    as_json: bool,
    drawn: bool,
) -> None:
    """Print one model's answer for a picture."""
    if as_json:
        click.echo(json.dumps({"image": str(path), **_fields(answer), **_optional(warning)}))
        return
    answer = printable(answer)
    table = Table(box=None, show_header=False, pad_edge=False)
    for rank, label in enumerate(answer.labels):
        distance = f"distance {label.distance:.2f} of 1" if rank and label.distance is not None else None
        table.add_row(Text(label.name), f"{label.probability:7.2%}", "█" * round(label.probability * 20), distance)
    picture_files.print_with_image(console, data if drawn else None, Group(_title(title, answer), table))
    _print_warning(console, warning)
    console.print(Text(f"{cost_line(answer)}\n", style="dim"))


def cost_line(answer: Classification) -> str:
    """Say which model, or which member of a route, answered, and how long the model or each member took."""
    line = f"{answer.model} version {answer.version}"
    if answer.stages:
        line += f", answered by {answer.answered_by}" + (", which was not sure" if answer.unsure else "")
    line += f": {answer.queue_ms:.1f} ms queued, {answer.compute_ms:.1f} ms computed"
    if len(answer.stages) > 1:
        took = [f"{stage.model} {stage.queue_ms + stage.compute_ms:.1f} ms" for stage in answer.stages]
        line += f" ({', then '.join(took)})"
    return line


def show_compared(
    console: Console,
    path: Path,
    title: str,
    data: bytes,
    outcomes: Mapping[str, Classification | ClientError],
    warning: str,
    as_json: bool,
    drawn: bool,
) -> bool:
    """Print the models' outcomes for a picture, and return whether a model failed."""
    failures = {model: outcome for model, outcome in outcomes.items() if isinstance(outcome, ClientError)}
    answers = [outcome for outcome in outcomes.values() if isinstance(outcome, Classification)]
    if as_json:
        models = [{"model": model} | _fields(outcome) for model, outcome in outcomes.items()]
        click.echo(json.dumps({"image": str(path), "models": models, **_optional(warning)}))
    elif answers:
        answers = printable(answers)
        table = _side_by_side(answers)
        heading = Text(f"{title}: {_verdict(answers)}", style="italic")
        picture_files.print_with_image(console, data if drawn else None, Group(heading, table))
        _print_warning(console, warning)
        console.print()
    for model, failure in failures.items():
        click.echo(f"{path}: {model}: {escaped(str(failure))}", err=True)
    return bool(failures)


def _side_by_side(answers: Sequence[Classification]) -> Table:
    """Make a table with a row for each rank; labels on which the models differ at that rank are bold."""
    result = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_footer=True, footer_style="dim")
    for answer in answers:
        timings = Text(f"{answer.queue_ms:.1f} ms queued\n{answer.compute_ms:.1f} ms computed")
        if answer.stages:
            timings.append(f"\nanswered by {answer.answered_by}")
        # fold wraps a long text instead of cutting it off
        result.add_column(Text(f"{answer.model} version {answer.version}"), timings, overflow="fold")
    for rank in zip_longest(*(answer.labels for answer in answers)):
        agreed = len({label and label.name for label in rank}) == 1
        result.add_row(*(_cell(label, agreed) for label in rank))
    return result


def _verdict(answers: Sequence[Classification]) -> str:
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


def _print_warning(console: Console, warning: str) -> None:
    if warning:
        console.print(Text.assemble(("WARNING ", "bold yellow"), warning))


def _optional(warning: str) -> dict[str, str]:
    return {"warning": warning} if warning else {}


def _fields(outcome: Classification | ClientError) -> dict[str, Any]:
    if isinstance(outcome, ClientError):
        return {"error": str(outcome), "code": outcome.code.name}
    fields = asdict(outcome, dict_factory=_without_none)
    if outcome.stages:
        return fields | {"answered_by": outcome.answered_by}
    return {name: value for name, value in fields.items() if name not in ("stages", "unsure")}


def _title(name: str, answer: Classification) -> Text:
    if answer.task != "multi_label":
        return Text(name, style="italic")
    count = len(answer.labels)
    title = f"{name}: {count or 'no'} label{'' if count == 1 else 's'}"
    if answer.path_probability is not None:
        title += f"{', in the order predicted' if count > 1 else ''}; {answer.path_probability:.2%} for the whole set"
    elif count > 1:
        title += ", most probable first"
    return Text(title, style="italic")


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}
