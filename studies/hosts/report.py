"""Makes tables of what callers noticed of failing hosts, for docs/operations.md."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studies import page, results
from studies.hosts.faults import FAULTS
from studies.hosts.promises import CALLERS, PROMISES
from studies.page import Part
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
Rows = list[list[str]]


def promise_rows(faults: Mapping[str, Line]) -> Rows:
    """A row for each promise, below a header. faults: the line of each fault, by its name."""
    rows = [["promise", "at most", "worst", "kept"]]
    for promise in PROMISES:
        digits = 0 if promise.unit == "calls" else 2
        worst = f"{promise.worst(faults):.{digits}f} {promise.unit}"
        rows.append([promise.text, f"{promise.bound:g} {promise.unit}", worst, "yes" if promise.kept(faults) else "no"])
    return rows


def fault_rows(faults: Mapping[str, Line], cell: Callable[[Mapping[str, Any]], str]) -> Rows:
    """A row for each fault with a cell for each caller's figures, below a header."""
    rows = [["fault", *CALLERS]]
    for name, line in faults.items():
        fault = f"{FAULTS[name].text}; {line['seconds']:.0f} s"
        rows.append([fault, *(cell(line["callers"][caller]) for caller in CALLERS)])
    return rows


def _failures(figures: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(figures["failed"].items()))
    return f"{counts or 0} of {figures['calls']}"


def _back(figures: Mapping[str, Any]) -> str:
    return "never" if figures["back_s"] is None else f"{figures['back_s']:.1f}"


def part(path: Path = RESULTS) -> str:
    """The tables, with their source. Raises click.ClickException where the results are malformed."""
    if not path.exists():
        return "Nothing was measured yet: `python -m studies hosts run`, and then `make docs`."
    lines = results.read(path)
    conditions = lines.pop("conditions")
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    promises, failures, slowest, back = (
        page.table(rows[0], rows[1:])
        for rows in (
            promise_rows(lines),
            fault_rows(lines, _failures),
            fault_rows(lines, lambda figures: f"{figures['slowest_s']:.2f}"),
            fault_rows(lines, _back),
        )
    )
    return f"""Made by `make docs` from [studies/hosts/results.jsonl](../studies/hosts/results.jsonl),
measured {conditions["date"]} on {conditions["cpus"]} CPUs ({conditions["processor"]}; {versions}) by

    {conditions["command"]}

{promises}

Calls that failed, of those that ended after the fault began:

{failures}

The slowest call, in seconds:

{slowest}

Seconds from the recovery until the host has its share again:

{back}"""


PARTS = (Part("docs/operations.md", part, "hosts"),)
