"""Makes the tables that `hangtag models` shows on a terminal, and the objects that it writes with --json."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.export.verify import Finding
from hangtag.printable import escaped
from hangtag.tables import facts, table

_HEADERS = ("model", "version", "serves", "precision", "size", "task", "test accuracy", "batched", "from")


def listing(entries: Sequence[Entry]) -> Table:
    """Make a table with a row for each version."""
    rows = [
        (
            entry.name,
            str(entry.version),
            "yes" if entry.serves else "-",
            entry.precision or "-",
            f"{entry.megabytes:.1f} MB",
            entry.metadata.get("task", "-") if entry.signature else Text("cannot be loaded", "red"),
            _accuracy(entry),
            {True: "yes", False: "no", None: "-"}[entry.batched],
            inventory.origin(entry) or "-",
        )
        for entry in entries
    ]
    return table(_HEADERS, rows, right=("version", "size", "test accuracy"))


def unbatched(entries: Sequence[Entry]) -> list[str]:
    """Say in one line for each unbatched version why it is unbatched."""
    return [
        escaped(f"{entry.name} version {entry.version} is not batched: {entry.unbatched_because}")
        for entry in entries
        if entry.unbatched_because
    ]


def description(entry: Entry, operators: dict[str, int] | None) -> Table:
    """Make the table of `hangtag models show`. The model's file must be loadable."""
    return facts(_lines(entry, operators))


def findings_table(entry: Entry, findings: Sequence[Finding]) -> Table:
    """Make a table of one model's verification, with a row for each recorded check.

    Checks with the same result for the same reason share a row.
    """
    verdicts: dict[bool | None, str | Text] = {
        True: Text("holds", "green"),
        False: Text("DOES NOT HOLD", "red"),
        None: "not checked",
    }
    rows = [
        (verdicts[holds], ", ".join(finding.check for finding in same), why)
        for (holds, why), same in groupby(findings, lambda finding: (finding.holds, finding.summary))
    ]
    made = table(("", "", ""), rows)
    made.title, made.title_justify = Text(escaped(f"{entry.name} version {entry.version}")), "left"
    made.show_header = False
    return made


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
    """Write a check's results in one line. For a nested table, only the largest value is written."""
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
        "a server with --model-control poll applies this within its --poll-seconds, a server with --model-control "
        f"explicit at 'hangtag models load {name}', and any other server when it restarts"
    )
