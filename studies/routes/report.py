"""Makes tables of the measured routes: for a terminal, and for docs/routes.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from studies import page, results
from studies.page import Part
from studies.results import Line
from studies.routes.goals import GOALS, LOADS
from studies.routes.repository import ACCURATE, FAST, SHADOW
from studies.server.report import others_sentence

RESULTS = Path(__file__).with_name("results.jsonl")
Rows = list[list[str]]


def tables(measured: Mapping[str, Any]) -> list[Table]:
    """For a terminal: the goals, the loads of the cascade, and the shadow. measured: the conditions, and the rounds."""
    made, rounds = [], measured["rounds"]
    for title, rows in (
        ("Goals", goal_rows(rounds)),
        (
            "Calls/s (p50 / p99 in ms; processor time of a call in the server)",
            cascade_rows(measured["conditions"], rounds),
        ),
        ("The primary at half of its peak", shadow_rows(rounds)),
    ):
        made.append(Table(*rows[0], title=title, box=None))
        for row in rows[1:]:
            made[-1].add_row(*row)
    return made


def goal_rows(rounds: Sequence[Line]) -> Rows:
    """A row for each goal, below a header."""
    rows = [["figure", "goal", "median", "over the rounds", "reached"]]
    for goal in GOALS:
        bound = f"{'≥' if goal.more_is_better else '≤'} {goal.bound:g}"
        values = goal.values(rounds)
        if not values:
            rows.append([goal.name, bound, "not measured", "", ""])
            continue
        spread = f"{min(values):.{goal.digits}f} to {max(values):.{goal.digits}f}" if len(values) > 1 else ""
        verdict = "yes" if goal.reached(values) else "no"
        rows.append([goal.name, bound, f"{statistics.median(values):.{goal.digits}f}", spread, verdict])
    return rows


def cascade_rows(conditions: Line, rounds: Sequence[Line]) -> Rows:
    """The accuracy and a row for each load, with a column for the route and each of its members, below a header."""
    systems = {FAST: f"`{FAST}`", "route": f"`{conditions['route']}`", ACCURATE: f"`{ACCURATE}`"}
    accuracy = rounds[0]["accuracy"]
    rows = [["", *systems.values()]]
    rows.append([f"right, of {accuracy['images']:,} test images", *(f"{accuracy[each]:.2%}" for each in systems)])
    for load in LOADS:
        cells = []
        for system in systems:
            figures = [line["cascade"][str(load)][system] for line in rounds]
            cells.append(
                f"{_median(figures, 'calls_per_s'):,.0f} ({_median(figures, 'p50_ms'):.2f} / "
                f"{_median(figures, 'p99_ms'):.2f}; {_median(figures, 'cpu_us'):,.0f} µs)"
            )
        rows.append([f"{load} in flight", *cells])
    return rows


def shadow_rows(rounds: Sequence[Line]) -> Rows:
    """A row for each of the three runs of the shadow's measurement, below a header."""
    rows = [["run", "calls/s", "p50, ms", "p99, ms", "processor time of a call, µs", "copied"]]
    for run, name in (
        ("alone", f"`{FAST}` alone"),
        ("shadowed", f"the same, and `{SHADOW}` gets a copy of every call"),
        ("busier", f"`{FAST}` alone, with more calls, so that the server is as busy"),
    ):
        figures = [line["shadow"][run] for line in rounds]
        cells = [f"{_median(figures, 'calls_per_s'):,.0f}", *(f"{_median(figures, each):.2f}" for each in _LATENCIES)]
        copied = f"{_median(figures, 'copied'):.0%}" if run == "shadowed" else ""
        rows.append([name, *cells, f"{_median(figures, 'cpu_us'):,.0f}", copied])
    return rows


_LATENCIES = ("p50_ms", "p99_ms")


def _median(figures: Sequence[Line], name: str) -> float:
    return float(statistics.median(each[name] for each in figures))


def part(path: Path = RESULTS) -> str:
    """The tables, with their source. Raises click.ClickException, as read."""
    source = "Made by `make docs` from [studies/routes/results.jsonl](../studies/routes/results.jsonl)"
    if not path.exists():
        return "Nothing was measured yet: `python -m studies routes run`, on an idle machine, and then `make docs`."
    lines = results.read(path)
    conditions = lines.pop("conditions")
    rounds = list(lines.values())
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    goals, cascade, shadow = (
        page.table(rows[0], rows[1:])
        for rows in (goal_rows(rounds), cascade_rows(conditions, rounds), shadow_rows(rounds))
    )
    split = rounds[0]["split"]
    counts = " and ".join(f"{count:,} to `{member}`" for member, count in split["counts"].items())
    return f"""{source},
measured {conditions["date"]} on {conditions["cpus"]} CPUs ({conditions["processor"]}; {versions}) by

    {conditions["command"]}

{others_sentence(rounds)} A goal is for the median over the rounds ({len(rounds)}), each a ratio within a round:

{goals}

Calls of one test image a second, with the latency's p50 / p99 in ms and the processor time that a call takes in the
server, medians. The load generator shares the processors:

{cascade}

Of {split["calls"]:,} calls to the split, {counts} went. `{SHADOW}` is the first version of `{FAST}`.

The shadow: Poisson arrivals at half of the rate that the primary reaches with 64 calls in flight. A copy waits
while the route has other work, and of too many the oldest is dropped, so fewer than all may be copied. What a copy
costs is the processor time of `{SHADOW}`. The last row shows the latency of a server that is as busy without a
shadow: what that time alone explains.

{shadow}"""


PARTS = (Part("docs/routes.md", part, "measurements"),)
