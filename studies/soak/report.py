"""Makes the page of the soak, README.md, with the goals, the tables and the picture of a run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from hangtag.page.drawing import COLOURS
from studies import page, results
from studies.page import Part
from studies.pictures import Picture, finish
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
_TEMPLATE = Path(__file__).with_name("page.md.j2")
FEWEST_CALLS = 1000
"""The minimum number of calls in the first and in the last minutes for a comparison of their p99."""
_FIGURES = {"rss_mb": ("memory (RSS), MB", 15), "fds": ("file descriptors", 10), "threads": ("threads", 2)}
"""For each figure of a process: its name, and the largest allowed increase from the first to the last minutes."""
Rows = list[list[str]]


def goal_rows(line: Line) -> Rows:
    """Return a header, and a row for each goal with the figure, the limit, the measured value and the verdict."""
    rows = [["figure", "goal", "measured", "reached"]]
    for name, bound, value, digits in (
        ("the longest delay of a call by the load generator, seconds", 1, line["longest_delay"], 2),
        ("unexplained errors", 0, line["unexplained"], 0),
        ("wrong answers (also counted as unexplained errors)", 0, line["wrong"], 0),
        ("versions that did not begin to serve, and processes that ended without a kill", 0, len(line["problems"]), 0),
        ("errors in the servers' logs", 0, len(line["log_errors"]), 0),
    ):
        rows.append([name, f"≤ {bound}" if bound else "0", f"{value:.{digits}f}", "yes" if value <= bound else "no"])
    for kind, servers in line["kinds"].items():
        if figures := [each for each in servers.values() if "p99_ms" in each]:
            rows.append([f"p99 of the last minutes / p99 of the first minutes: {kind}", "≤ 1.2", *_p99_growth(figures)])
    lasting = [process for each in line["processes"].values() for process in each.values() if process["lived_on"]]
    for key, (name, most) in _FIGURES.items():
        ends = [process[f"{key}_first_last"] for process in lasting]
        increases = [last - first for first, last in ends if None not in (first, last)]
        verdict = ("the run was too short", "cannot tell")
        if increases:
            verdict = (f"{max(increases):.0f}", "yes" if max(increases) <= most else "no")
        rows.append([f"increase of {name}, in the process with the largest increase", f"≤ {most}", *verdict])
    return rows


def _p99_growth(servers: Sequence[Line]) -> tuple[str, str]:
    """Return the largest ratio of a server's last p99 to the same server's first p99, and the verdict."""
    fewest = min(calls for each in servers for calls in each["compared"])
    if fewest < FEWEST_CALLS:
        return f"{fewest:,} calls", "not judged"
    ratio = max(each["last_p99_ms"] / each["first_p99_ms"] for each in servers)
    return f"{ratio:.2f}", "yes" if ratio <= 1.2 else "no"


def call_rows(line: Line) -> Rows:
    """Return a header, and a row for each kind of call and each server, with the outcomes and the latencies."""
    rows = [["calls", "server", "as expected", "explained by a kill", "unexplained", "p50", "p99", "first", "last"]]
    for kind, servers in line["kinds"].items():
        for server, figures in servers.items():
            counts = [f"{figures[key]:,}" for key in ("ended", "explained", "unexplained")]
            times = [figures.get(key) for key in ("p50_ms", "p99_ms", "first_p99_ms", "last_p99_ms")]
            rows.append([kind, server, *counts, *("" if each is None else f"{each:.1f}" for each in times)])
    return rows


def tables(line: Line) -> dict[str, str]:
    """Return a run's tables, by their names in the page's template."""
    goals, calls = goal_rows(line), call_rows(line)
    return {"goals": page.table(goals[0], goals[1:]), "calls": page.table(calls[0], calls[1:], right=7)}


def longest(path: Path = RESULTS) -> Line:
    return max(results.read(path).values(), key=lambda line: float(line["minutes"]))


def text(path: Path = RESULTS) -> str:
    line = longest(path)
    made_from = page.made_from(path, line)
    return page.render(_TEMPLATE, line=line, made_from=made_from, fewest_calls=FEWEST_CALLS, **tables(line))


def processes(line: Line) -> Figure:
    """Draw a column for each server and a row for each figure. A dotted line marks the time of a kill."""
    servers = line["processes"]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    rows = figure.subplots(len(_FIGURES), len(servers), sharex=True, sharey="row", squeeze=False)
    for row, (key, (label, _)) in zip(rows, _FIGURES.items(), strict=True):
        for axes, (server, members) in zip(row, servers.items(), strict=True):
            for colour, (name, process) in zip(COLOURS, members.items(), strict=False):
                axes.plot(process["minutes"], process[key], color=colour, linewidth=1.2, label=name)
            for kill in line["kills"]:
                if kill["server"] == server:
                    axes.axvline(kill["minute"], color="0.6", linestyle=":", linewidth=0.8)
            finish(axes, server if key == "rss_mb" else "", grid="y")
            axes.set_ylim(bottom=0)
        row[0].set_ylabel(label)
    rows[0][0].legend(frameon=False, fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("minutes")
    return figure


PARTS = (Part("studies/soak/README.md", text),)
PICTURES = (Picture("studies/soak/processes.png", lambda: processes(longest())),)
