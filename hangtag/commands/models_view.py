"""Makes the tables that `hangtag models` shows on a terminal, and the objects that it writes with --json."""

import io
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import click
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.export.verify import Finding
from hangtag.printable import escaped


def cell(text: str) -> str:
    """Return a text from a file for a table's cell, in which markup and control characters have no effect."""
    return escape_markup(escaped(text))


def listing(entries: Sequence[Entry]) -> Table:
    """Make a table with a row for each version."""
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "serves", "precision", "size", "task", "test accuracy", "batched", "from"):
        table.add_column(column, justify="right" if column in ("version", "size", "test accuracy") else "left")
    for entry in entries:
        table.add_row(
            cell(entry.name),
            str(entry.version),
            "yes" if entry.serves else "-",
            cell(entry.precision or "-"),
            f"{entry.megabytes:.1f} MB",
            cell(entry.metadata.get("task", "-")) if entry.signature else "[red]cannot be loaded[/]",
            cell(_accuracy(entry)),
            {True: "yes", False: "no", None: "-"}[entry.batched],
            cell(inventory.origin(entry) or "-"),
        )
    return table


def unbatched(entries: Sequence[Entry]) -> list[str]:
    """Say in one line for each unbatched version why it is unbatched."""
    return [
        escaped(f"{entry.name} version {entry.version} is not batched: {entry.unbatched_because}")
        for entry in entries
        if entry.unbatched_because
    ]


def description(entry: Entry, operators: dict[str, int] | None) -> Table:
    """Make the table of `hangtag models show`. The model's file must be loadable."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, text in _lines(entry, operators):
        table.add_row(cell(label), cell(text))
    return table


def findings_table(entry: Entry, findings: Sequence[Finding]) -> Table:
    """Make a table of one model's verification, with a row for each recorded figure.

    Figures with the same result for the same reason share a row.
    """
    table = Table(
        title=f"{cell(entry.name)} version {entry.version}", box=None, show_header=False, title_justify="left"
    )
    for (holds, why), same in groupby(findings, lambda finding: (finding.holds, finding.summary)):
        verdict = {True: "[green]holds[/]", False: "[red]DOES NOT HOLD[/]", None: "not checked"}[holds]
        table.add_row(verdict, cell(", ".join(finding.check for finding in same)), cell(why))
    return table


def verification(entry: Entry, findings: Sequence[Finding]) -> dict[str, Any]:
    """Build the JSON object of one model's verification."""
    return {
        "model": entry.name,
        "version": entry.version,
        "findings": [{"check": finding.check, "holds": finding.holds, "said": finding.summary} for finding in findings],
    }


def summary(entry: Entry) -> dict[str, Any]:
    """Build the JSON object of one model in the list."""
    return {
        "model": entry.name,
        "version": entry.version,
        "serves": entry.serves,
        "file": str(entry.path),
        "megabytes": round(entry.megabytes, 3),
        "precision": entry.precision,
        "task": entry.metadata.get("task"),
        "batched": entry.batched,
        **({"unbatched_because": entry.unbatched_because} if entry.unbatched_because else {}),
        "from": inventory.origin(entry),
        **({entry.accuracy[0]: entry.accuracy[1]} if entry.accuracy else {}),
        **({"trial": entry.trial} if entry.trial else {}),
        **({"trouble": entry.trouble} if entry.trouble else {}),
    }


def details(entry: Entry, operators: dict[str, int] | None) -> dict[str, Any]:
    """Build the fields that `hangtag models show --json` adds to the summary. The model's file must be loadable."""
    assert entry.signature is not None
    return {
        **{
            side: [{"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape} for spec in specs]
            for side, specs in (("inputs", entry.signature.inputs), ("outputs", entry.signature.outputs))
        },
        "image": None if entry.signature.image is None else entry.signature.image.as_json(),
        "labels": list(entry.signature.labels),
        "operators": operators,
        "provenance": dict(inventory.provenance(entry)),
        "gate": entry.gate,
        "fp32_layers": entry.json("fp32_layers"),
    }


def _lines(entry: Entry, operators: dict[str, int] | None) -> list[tuple[str, str]]:
    assert entry.signature is not None
    serves = "serves" if entry.serves else "another version serves"
    lines = [
        ("model", f"{entry.name} version {entry.version}, {serves}"),
        ("file", f"{entry.path}, {entry.megabytes:.2f} MB"),
    ]
    lines += [("input", str(spec)) for spec in entry.signature.inputs]
    lines += [("output", str(spec)) for spec in entry.signature.outputs]
    if entry.signature.image is not None:
        lines.append(("image", str(entry.signature.image)))
    elif entry.signature.picture_shape is not None:
        lines.append(("image", f"only this size; for other sizes, run: hangtag models fit {entry.name} --fit ..."))
    unbatched = f"no: requests are served one at a time, because {entry.unbatched_because}"
    lines.append(("batched", "yes" if entry.batched else unbatched))
    if entry.signature.labels:
        lines.append(("labels", ", ".join(entry.signature.labels)))
    if operators is None:
        lines.append(("operators", "unknown: the package onnx is not installed"))
    else:
        counted = ", ".join(f"{count} {operator}" for operator, count in operators.items())
        lines.append(("operators", f"{sum(operators.values())} nodes: {counted}"))
    if entry.trial:
        lines.append(("TRIAL RUN", entry.trial))
    lines += list(inventory.provenance(entry))
    if entry.accuracy:
        lines.append((entry.accuracy[0], f"{entry.accuracy[1]:.2%}"))
    try:
        lines += _gate(entry.gate or {})
    except (AttributeError, KeyError, TypeError, ValueError):
        lines.append(("gate", "the recorded figures cannot be read"))
    return lines


def _gate(gate: dict[str, Any]) -> list[tuple[str, str]]:
    checks = [(check, figures) for check, figures in gate.items() if isinstance(figures, dict)]
    return [(f"gate: {check}", _short(figures) or "passed") for check, figures in checks]


def _short(figures: dict[str, Any]) -> str:
    """Write a check's figures in one line. For a nested table, only the largest value is written."""
    if words := figures.get("summary"):
        return str(words)
    return ", ".join(
        f"{name.replace('_', ' ')} {_largest(value)}"
        for name, value in figures.items()
        if value is not None and name not in ("operators", "opsets")
    )


def _largest(value: Any) -> str:
    if isinstance(value, dict):
        return max((_largest(item) for item in value.values()), key=float, default="0")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _accuracy(entry: Entry) -> str:
    if entry.accuracy is None:
        return "-"
    figure, value = entry.accuracy
    return f"{value:.2%}" + ("" if figure == "test_accuracy" else f" {figure.removeprefix('test_').replace('_', ' ')}")


def change(name: str, before: int | None, now: int) -> str:
    """Say which version a promotion chose, and which version was chosen before."""
    if before == now:
        return f"{name} version {now} was already chosen"
    return f"{name} version {now} is chosen" + (f" instead of version {before}" if before else "")


def followers(name: str) -> str:
    """Say when running servers apply a promotion or a new route."""
    return (
        "a server with --model-control poll applies this within its --poll-seconds, a server with explicit after "
        f"'hangtag models load {name}', and a server with none (the default) when it restarts"
    )


def print_plain(content: Table | str) -> None:
    """Print a table or a text in the width of the terminal.

    In a pipe or a file, each row is printed on one line, so that programs can search the rows.
    """
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(content)
        return
    text = io.StringIO()
    Console(file=text, width=100_000, highlight=False, color_system=None).print(content)
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=1))
