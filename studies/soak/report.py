"""Makes the page of the soak, README.md, with the goals, the tables and the picture of a run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from studies import page, results
from studies.page import Part
from studies.pictures import COLOURS, Picture, finish
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
_TEMPLATE = Path(__file__).with_name("page.md.j2")
FEWEST_CALLS = 1000
"""The minimum number of calls in the first and in the last minutes for a comparison of their p99."""
GROWS, SMALL = 2.0, 10.0
"""In MB per hour. An interval that begins above GROWS proves growth. One that ends above SMALL proves nothing."""
_FIGURES = {"rss_mb": "memory (RSS), MB", "fds": "file descriptors", "threads": "threads"}
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
    slow = f"begins at {GROWS:g} or less, ends at {SMALL:g} or less"
    rows.append(["growth of memory, MB an hour (95 % interval)", slow, *_memory_growth(lasting)])
    for figure, gain, most in (
        ("fds", "additional file descriptors, including those of connections", 10),
        ("threads", "additional threads", 2),
    ):
        ends = [process[f"{figure}_first_last_max"][:2] for process in lasting]
        gained = max((last - first for first, last in ends if None not in (first, last)), default=None)
        verdict = _TOO_SHORT if gained is None else (f"{gained:.0f}", "yes" if gained <= most else "no")
        rows.append([gain, f"≤ {most}", *verdict])
    return rows


_TOO_SHORT = ("the run was too short", "cannot tell")


def _p99_growth(servers: Sequence[Line]) -> tuple[str, str]:
    """Return the largest ratio of a server's last p99 to the same server's first p99, and the verdict."""
    fewest = min(calls for each in servers for calls in each["compared"])
    if fewest < FEWEST_CALLS:
        return f"{fewest:,} calls", "not judged"
    ratio = max(each["last_p99_ms"] / each["first_p99_ms"] for each in servers)
    return f"{ratio:.2f}", "yes" if ratio <= 1.2 else "no"


def _memory_growth(lasting: Sequence[Line]) -> tuple[str, str]:
    """Return the largest certain growth or, if no growth is certain, the largest possible growth, and the verdict."""
    fits = [process["mb_per_hour"] for process in lasting if process["mb_per_hour"] is not None]
    if not fits:
        return _TOO_SHORT
    surest = max(fits, key=lambda fit: float(fit[1]))
    if surest[1] > GROWS:
        return _interval(surest), "no"
    widest = max(fits, key=lambda fit: float(fit[2]))
    return _interval(widest), "yes" if widest[2] <= SMALL else "cannot tell"


def _interval(fit: Sequence[float]) -> str:
    return f"{fit[0]:+.1f} ({fit[1]:+.1f} to {fit[2]:+.1f})"


def call_rows(line: Line) -> Rows:
    """Return a header, and a row for each kind and server with expected outcomes, other outcomes and latency."""
    rows = [["calls", "server", "as expected", "explained by a kill", "unexplained", "p50", "p99", "first", "last"]]
    for kind, servers in line["kinds"].items():
        for server, figures in servers.items():
            counts = [f"{figures[key]:,}" for key in ("ended", "explained", "unexplained")]
            times = [figures.get(key) for key in ("p50_ms", "p99_ms", "first_p99_ms", "last_p99_ms")]
            rows.append([kind, server, *counts, *("" if each is None else f"{each:.1f}" for each in times)])
    return rows


def process_rows(line: Line) -> Rows:
    """Return a header, and a row for each process."""
    rows = [["server", "process", "RSS, MB", "PSS, MB", "MB an hour (95 %)", "descriptors", "threads"]]
    for server, processes in line["processes"].items():
        for name, process in processes.items():
            fit = process["mb_per_hour"]
            growth = "was killed" if not process["lived_on"] else "" if fit is None else _interval(fit)
            memory = [f"{process[key][0]:.0f} to {process[key][-1]:.0f}" for key in ("rss_mb", "pss_mb")]
            rows.append([server, name, *memory, growth, *(_counts(process, key) for key in ("fds", "threads"))])
    return rows


def _counts(process: Line, figure: str) -> str:
    first, last, most = process[f"{figure}_first_last_max"]
    return f"at most {most:g}" if None in (first, last) else f"{first:g} to {last:g}, at most {most:g}"


def tables(line: Line) -> dict[str, str]:
    """Return a run's tables, by their names in the page's template."""
    rows_of = {
        "goals": (goal_rows(line), 0),
        "calls": (call_rows(line), 7),
        "processes": (process_rows(line), 0),
    }
    return {name: page.table(rows[0], rows[1:], right) for name, (rows, right) in rows_of.items()}


def longest(path: Path = RESULTS) -> Line:
    """Return the longest recorded run."""
    return max(results.read(path).values(), key=lambda line: float(line["minutes"]))


def text(path: Path = RESULTS) -> str:
    """The page."""
    line = longest(path)
    rules = {"fewest_calls": FEWEST_CALLS, "grows": GROWS, "small": SMALL}
    return page.render(_TEMPLATE, line=line, made_from=page.made_from(path, line), **rules, **tables(line))


def processes(line: Line) -> Figure:
    """Draw a column for each server and a row for each figure. A dotted line marks the time of a kill."""
    servers = line["processes"]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    rows = figure.subplots(len(_FIGURES), len(servers), sharex=True, sharey="row", squeeze=False)
    for row, (key, label) in zip(rows, _FIGURES.items(), strict=True):
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
