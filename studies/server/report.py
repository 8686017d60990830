"""Makes tables of the measured rounds: for a terminal, for docs/performance.md, and for docs/deploy.md."""

import statistics
from pathlib import Path

from rich.table import Table

from studies import page, results
from studies.page import Part
from studies.server import capacity
from studies.server.goals import Measurement, bare_rate, goals

RESULTS = Path(__file__).with_name("results.jsonl")
Rows = list[list[str]]


def measurement(path: Path = RESULTS) -> Measurement:
    """The recorded measurement: its conditions, its starts and its rounds. Raises click.ClickException, as read."""
    lines = results.read(path)
    return {
        "conditions": lines["conditions"],
        "starts": [line for name, line in lines.items() if name.startswith("start ")],
        "rounds": [line for name, line in lines.items() if name.startswith("round ")],
    }


def tables(measured: Measurement) -> list[Table]:
    """For a terminal: the goals, then every scenario."""
    goal_table = Table(*GOAL_HEAD, title="Goals, medians")
    for row in _goal_rows(measured):
        goal_table.add_row(*row)
    scenario_table = Table(*SCENARIO_HEAD, title="Every scenario, medians")
    for row in _scenario_rows(measured):
        scenario_table.add_row(*row)
    return [goal_table, scenario_table]


GOAL_HEAD = ("figure", "goal", "hot path", "over the rounds", "reached", "ordinary path")
SCENARIO_HEAD = ("model", "load", "path", "samples/s", "share of bare", "p50 ms", "p99 ms", "CPUs", "mean batch")


def _goal_rows(measured: Measurement) -> Rows:
    rows = []
    for hot, ordinary in zip(goals(measured), goals(measured, "ordinary"), strict=True):
        spread = f"{min(hot.figures):.3g} to {max(hot.figures):.3g}"
        reached = "yes" if hot.reached else "no"
        rows.append([hot.name, hot.text, f"{hot.median:.3g}", spread, reached, f"{ordinary.median:.3g}"])
    return rows


def _scenario_rows(measured: Measurement) -> Rows:
    loads = {"many": "64 in flight", "one": "1 in flight", "offline": "2 in flight, 64 samples each"}
    rounds = measured["rounds"]
    rows = []
    for model in rounds[0]["bare"]:
        bare = statistics.median(bare_rate(turn["bare"][model]) for turn in rounds)
        single = statistics.median(turn["bare"][model]["single"]["all_threads"]["p50_ms"] for turn in rounds)
        rows.append([model, "batches of 64", "bare ONNX Runtime", f"{bare:,.0f}", "1", "", "", "", "64"])
        rows.append([model, "1 sample", "bare ONNX Runtime", "", "", f"{single:.3f}", "", "", "1"])
        for scenario, load in loads.items():
            for path in ("hot", "ordinary"):
                turns = [turn[path][model][scenario] for turn in rounds]
                median = {figure: statistics.median(turn[figure] for turn in turns) for figure in turns[0]}
                rate = median["samples_per_s"]
                row = [model, load, path, f"{rate:,.0f}", f"{rate / bare:.2f}"]
                row += [f"{median['p50_ms']:.3f}", f"{median['p99_ms']:.3f}", f"{median['cpus']:.2f}"]
                rows.append([*row, f"{median['mean_batch']:.1f}"])
    return rows


def part(path: Path = RESULTS) -> str:
    """Both tables, with their source. Raises click.ClickException, as read."""
    measured = measurement(path)
    conditions = measured["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return f"""Made by `make docs` from [studies/server/results.jsonl](../studies/server/results.jsonl),
measured {conditions["date"]} on {conditions["cpus"]} CPUs ({conditions["processor"]}; {versions}) by

    {conditions["command"]}

{page.table(GOAL_HEAD, _goal_rows(measured))}

{page.table(SCENARIO_HEAD, _scenario_rows(measured))}"""


PARTS = (
    Part("docs/performance.md", part, "figures"),
    Part("docs/deploy.md", lambda: capacity.part(measurement()), "capacity"),
)
