"""Makes tables of the measured rounds: for a terminal, for docs/performance.md, and for docs/deploy.md."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from studies import page, results
from studies.page import Part
from studies.server import capacity, profile
from studies.server.goals import GOALS, UNITS, Goal, Measurement, figure
from studies.server.scenarios import CLOSED_LOOPS, LOADS, MODELS
from studies.server.systems import SYSTEMS

RESULTS = Path(__file__).with_name("results.jsonl")
BUSY = 0.05
"""From this share of the processors on that other programs took, the page says so."""
GOAL_HEAD = ("figure", "system", "goal", "median", "over the rounds", "reached")
Rows = list[list[str]]


def measurement(path: Path = RESULTS) -> Measurement:
    """The recorded measurement: its conditions and its rounds. Raises click.ClickException, as read."""
    lines = results.read(path)
    return {
        "conditions": lines["conditions"],
        "rounds": [line for name, line in lines.items() if name.startswith("round ")],
    }


def tables(measured: Measurement) -> list[Table]:
    """For a terminal: the goals, then every closed loop."""
    return as_tables(goal_rows(measured), load_rows(measured))


def as_tables(goals: Rows, loads: Rows) -> list[Table]:
    """The rows of both functions below, for a terminal."""
    both = []
    for title, rows in (("Goals", goals), ("Images/s (p50 / p99 in ms)", loads)):
        both.append(Table(*rows[0], title=title, box=None))
        for row in rows[1:]:
            both[-1].add_row(*row)
    return both


def goal_rows(measured: Measurement, goals: Sequence[Goal] = GOALS, known: Mapping[str, str] = SYSTEMS) -> Rows:
    """A row for each goal, with the figures of all systems beside it, below a header. known: system -> description."""
    systems = _systems(measured, known)
    rows = [[*GOAL_HEAD, *systems]]
    for goal in goals:
        values = goal.values(measured)
        verdict = ["not measured", "", ""]
        if values:
            spread = f"{min(values):.3g} to {max(values):.3g}"
            verdict = [f"{statistics.median(values):.3g}", spread, "yes" if goal.reached(values) else "no"]
        row = [_name(goal), goal.system, _bound(goal), *verdict]
        rows.append([*row, *(_median(measured, system, goal) for system in systems)])
    return rows


def load_rows(measured: Measurement, known: Mapping[str, str] = SYSTEMS) -> Rows:
    """A row for each closed loop of each model, a column for each system, below a header."""
    systems = _systems(measured, known)
    rows = [["model", "load", *systems]]
    for model in MODELS:
        for load, description in CLOSED_LOOPS.items():
            cells = [_load_cell(measured, system, model, load) for system in systems]
            if any(cells):
                rows.append([model, description, *cells])
    return rows


def _load_cell(measured: Measurement, system: str, model: str, load: str) -> str:
    """Images a second, and p50 and p99 in milliseconds."""
    rates, p50, p99 = (_values(measured, system, model, load, name) for name in ("samples_per_s", "p50_ms", "p99_ms"))
    times = " / ".join(_number(statistics.median(values)) for values in (p50, p99) if values)
    return f"{statistics.median(rates):,.0f} ({times})" if rates else ""


def _systems(measured: Measurement, known: Mapping[str, str]) -> list[str]:
    return [system for system in known if any(system in turn for turn in measured["rounds"])]


def _values(measured: Measurement, system: str, model: str | None, load: str, name: str) -> list[float]:
    values = (figure(turn, system, model, load, name) for turn in measured["rounds"])
    return [value for value in values if value is not None]


def _median(measured: Measurement, system: str, goal: Goal) -> str:
    """A system's own figure beside a goal. For a ratio to bare ONNX Runtime, bare's is that of batches."""
    load = "batch" if system == "bare" and goal.reference == "bare" else goal.load
    values = _values(measured, system, goal.model, load, goal.figure)
    return _number(statistics.median(values)) if values else ""


def _number(value: float) -> str:
    """With at least three digits, and all those before the point."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _name(goal: Goal) -> str:
    model = f"{goal.model}, " if goal.model else ""
    return f"{model}{LOADS[goal.load]}, {UNITS[goal.figure]}"


def _bound(goal: Goal) -> str:
    sign, times = "≥" if goal.more_is_better else "≤", f" x {goal.reference}" if goal.reference else ""
    return f"{sign} {goal.bound:g}{times}{', a moonshot' if goal.moonshot else ''}"


def others_sentence(rounds: Sequence[results.Line]) -> str:
    """A sentence on the processor time that other programs took in the meantime."""
    shares = [turn["others"] for turn in rounds]
    if max(shares) < BUSY:
        return "Other programs took less than 5 % of the processors' time."
    low, high = (100 * bound(shares) for bound in (min, max))
    return (
        f"**The machine was busy**: other programs took {low:.0f} to {high:.0f} % of the processors' time in a round, "
        "so the figures are low, and ratios less certain."
    )


def source(measured: Measurement, file: str, known: Mapping[str, str]) -> str:
    """How a measurement came about, and its systems. file: from the repository's root; known: system -> description."""
    conditions = measured["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    systems = "\n".join(f"- `{name}`: {known[name]}" for name in _systems(measured, known))
    return f"""Made by `make docs` from [{file}](../{file}),
measured {conditions["date"]} on {conditions["cpus"]} CPUs ({conditions["processor"]}; {versions}) by

    {conditions["command"]}

{others_sentence(measured["rounds"])} The systems:

{systems}"""


def part(path: Path = RESULTS) -> str:
    """Both tables, with their source. Raises click.ClickException, as read."""
    measured = measurement(path)
    conditions, rounds = measured["conditions"], measured["rounds"]
    goal_table, load_table = ((page.table(rows[0], rows[1:])) for rows in (goal_rows(measured), load_rows(measured)))
    return f"""{source(measured, "studies/server/results.jsonl", SYSTEMS)}

The earlier server is that of commit {conditions["commit"][:12]}. Rounds: {len(rounds)}. A goal is for the median of the
rounds' figures, each a bound or a ratio within a round. The last columns are each system's own figures, medians too:

{goal_table}

Images a second, with the latency's p50 / p99 in ms in brackets, medians:

{load_table}"""


PARTS = (
    Part("docs/performance.md", part, "figures"),
    Part("docs/performance.md", profile.table, "profile"),
    Part("docs/deploy.md", lambda: capacity.part(measurement()), "capacity"),
)
