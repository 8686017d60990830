"""``hangtag models``: what a model repository holds, what one of its models is, and whether its figures still hold."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hangtag.export import verify
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry

_models = click.option(
    "--models",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("models"),
    show_default=True,
    help="The model repository.",
)
_version = click.option("--version", type=click.IntRange(min=1), help="A certain version.  [default: the latest]")
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output, for a program.")


class _ListsAlone(click.Group):
    """Without a command it is its list, with the options of that."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names_none = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["list", *args] if names_none else args)


@click.group(cls=_ListsAlone)
def models() -> None:
    """List, show and verify the models of a repository, by what stands in their own files. No server is asked.

    Without a command it lists: 'hangtag models --json' is 'hangtag models list --json'.
    """


@models.command("list")
@_models
@_json
def list_models(folder: Path, as_json: bool) -> None:
    """List the latest version of every model."""
    entries = inventory.latest(folder)
    if as_json:
        _print_json([_row(entry) for entry in entries])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "precision", "size", "task", "figure", "batched"):
        table.add_column(column, justify="right" if column in ("version", "size", "figure") else "left")
    for entry in entries:
        table.add_row(
            entry.name,
            str(entry.version),
            entry.precision or "-",
            f"{entry.megabytes:.1f} MB",
            entry.metadata.get("task", "-") if entry.signature else "[red]cannot be loaded[/]",
            _accuracy(entry),
            {True: "yes", False: "no", None: "-"}[entry.batched],
        )
    _print(table if entries else f"{folder} holds no model; 'hangtag export' publishes one.")


@models.command()
@click.argument("name")
@_version
@_models
@_json
def show(name: str, version: int | None, folder: Path, as_json: bool) -> None:
    """Show a model: its signature, labels, size, operators, provenance, and what the gate found.

    \b
    Examples:
      hangtag models show cnn
      hangtag models show cnn --version 1 --json
    """
    entry = inventory.find(folder, name, version)
    if entry.signature is None:
        raise click.ClickException(f"{entry.trouble}")
    operators = inventory.operators(entry)
    if as_json:
        _print_json(_row(entry) | _details(entry, operators))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, said in _lines(entry, operators):
        table.add_row(label, escape(said))
    _print(table)


@models.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_version
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's IDX files.")
@_models
@_json
def verify_models(
    names: Sequence[str], version: int | None, data_dir: Path | None, folder: Path, as_json: bool
) -> None:
    """Compute the recorded figures of models anew, all of them unless some are named. Exit code 1 if one does not hold.

    Run it on the machine that serves: what was proven elsewhere was proven with another processor.
    """
    if version is not None and len(names) != 1:
        raise click.UsageError(f"--version {version} is of one model; name just that one.")
    entries = [inventory.find(folder, name, version) for name in names] if names else inventory.latest(folder)
    written: list[dict[str, Any]] = []
    held = True
    for entry in entries:
        findings = verify.verify(entry, data_dir)
        held = held and all(finding.holds is not False for finding in findings)
        written.append(
            {"model": entry.name, "version": entry.version, "findings": [_finding(finding) for finding in findings]}
        )
        if not as_json:
            table = Table(
                title=f"{entry.name} version {entry.version}", box=None, show_header=False, title_justify="left"
            )
            for finding in findings:
                mark = {True: "[green]holds[/]", False: "[red]DOES NOT HOLD[/]", None: "not checked"}[finding.holds]
                table.add_row(mark, finding.check, escape(finding.summary))
            _print(table)
    if as_json:
        _print_json(written)
    if not held:
        raise SystemExit(1)


def _finding(finding: verify.Finding) -> dict[str, Any]:
    return {"check": finding.check, "holds": finding.holds, "said": finding.summary}


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "model": entry.name,
        "version": entry.version,
        "file": str(entry.path),
        "megabytes": round(entry.megabytes, 3),
        "precision": entry.precision,
        "task": entry.metadata.get("task"),
        "batched": entry.batched,
        **({entry.accuracy[0]: entry.accuracy[1]} if entry.accuracy else {}),
        **({"trouble": entry.trouble} if entry.trouble else {}),
    }


def _details(entry: Entry, operators: dict[str, int] | None) -> dict[str, Any]:
    assert entry.signature is not None
    return {
        **{
            side: [{"name": spec.name, "datatype": spec.datatype, "shape": spec.wire_shape} for spec in specs]
            for side, specs in (("inputs", entry.signature.inputs), ("outputs", entry.signature.outputs))
        },
        "labels": list(entry.signature.labels),
        "operators": operators,
        "provenance": dict(inventory.provenance(entry)),
        "gate": entry.json("gate"),
        "speed": entry.json("speed"),
    }


def _lines(entry: Entry, operators: dict[str, int] | None) -> list[tuple[str, str]]:
    assert entry.signature is not None
    lines = [("model", f"{entry.name} version {entry.version}"), ("file", f"{entry.path}, {entry.megabytes:.2f} MB")]
    lines += [("input", str(spec)) for spec in entry.signature.inputs]
    lines += [("output", str(spec)) for spec in entry.signature.outputs]
    lines.append(("batched", "yes" if entry.batched else "no: requests are served one at a time"))
    if entry.signature.labels:
        lines.append(("labels", ", ".join(entry.signature.labels)))
    if operators is None:
        lines.append(("operators", "unknown: the package onnx is not installed"))
    else:
        counted = ", ".join(f"{count} {operator}" for operator, count in operators.items())
        lines.append(("operators", f"{sum(operators.values())} nodes: {counted}"))
    lines += list(inventory.provenance(entry))
    if entry.accuracy:
        lines.append((entry.accuracy[0], f"{entry.accuracy[1]:.2%}"))
    for told, lines_of in (("gate", _gate), ("speed", _speed)):
        try:
            lines += lines_of(entry.json(told) or {})
        except (AttributeError, KeyError, TypeError, ValueError):
            lines.append((told, "what is recorded cannot be read"))
    return lines


def _gate(gate: dict[str, Any]) -> list[tuple[str, str]]:
    checks = [(check, figures) for check, figures in gate.items() if isinstance(figures, dict)]
    return [(f"gate: {check}", _short(figures) or "passed") for check, figures in checks]


def _speed(speed: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"speed, batch {size}", ", ".join(f"{who} {ms:.3g} ms" for who, ms in times.items()))
        for size, times in speed.get("median_ms", {}).items()
    ]


def _short(figures: dict[str, Any]) -> str:
    """The figures of a check in a line: of a table the largest value."""
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


def _print(shown: Table | str) -> None:
    """To a terminal as wide as it is; to anything else a line a row, for programs that look for one."""
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(shown)
        return
    text = io.StringIO()
    Console(file=text, width=100_000, highlight=False, color_system=None).print(shown)
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=1))
