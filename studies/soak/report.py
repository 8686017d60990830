"""The goals of the soak, and the tables and pictures of a run, for the page, README.md."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from studies import page, results
from studies.page import Part
from studies.pictures import COLOURS, Picture, finish
from studies.results import Line

RESULTS = Path(__file__).with_name("results.jsonl")
_TEMPLATE = Path(__file__).with_name("page.md.j2")
FEWEST_CALLS = 1000
"""Least number of calls of a kind to a server, in the first and in the last minutes, for comparing their p99s."""
GROWS, SMALL = 2.0, 10.0
"""MB an hour. An interval wholly above GROWS shows growth. An interval that ends above SMALL may be growth."""
_FIGURES = {"rss_mb": "memory (RSS), MB", "fds": "file descriptors", "threads": "threads"}
Rows = list[list[str]]


def goal_rows(line: Line) -> Rows:
    """A row for each goal, below a header: the figure, the bound, the measured value, and whether it is reached."""
    rows = [["figure", "goal", "measured", "reached"]]
    for name, bound, value, digits in (
        ("seconds by which a client was late with a call", 1, line["longest_delay"], 2),
        ("unexplained errors", 0, line["unexplained"], 0),
        ("wrong answers, which are among them", 0, line["wrong"], 0),
        ("versions that did not come to serve, processes that ended by themselves", 0, len(line["problems"]), 0),
        ("errors in the servers' logs", 0, len(line["log_errors"]), 0),
    ):
        rows.append([name, f"≤ {bound}" if bound else "0", f"{value:.{digits}f}", "yes" if value <= bound else "no"])
    for kind, servers in line["latency"].items():
        rows.append([f"p99 of the last minutes over the first: {kind}", "≤ 1.2", *_p99_growth([*servers.values()])])
    lasting = [process for each in line["processes"].values() for process in each.values() if process["lived_on"]]
    slow = f"from {GROWS:g} or less, to {SMALL:g} or less"
    rows.append(["memory, MB an hour, with its 95 % interval", slow, *_memory_growth(lasting)])
    for figure, gain, most in (
        ("fds", "file descriptors gained, clients' connections included", 10),
        ("threads", "threads gained", 2),
    ):
        ends = [process[f"{figure}_first_last_max"][:2] for process in lasting]
        gained = max((last - first for first, last in ends if None not in (first, last)), default=None)
        verdict = _TOO_SHORT if gained is None else (f"{gained:.0f}", "yes" if gained <= most else "no")
        rows.append([gain, f"≤ {most}", *verdict])
    return rows


_TOO_SHORT = ("the run was too short", "cannot tell")


def _p99_growth(servers: Sequence[Line]) -> tuple[str, str]:
    """The p99 of the last minutes divided by the p99 of the first, for the server on which it grew most, and the
    verdict."""
    fewest = min(calls for each in servers for calls in each["compared"])
    if fewest < FEWEST_CALLS:
        return f"{fewest:,} calls", "not judged"
    ratio = max(each["last_p99_ms"] / each["first_p99_ms"] for each in servers)
    return f"{ratio:.2f}", "yes" if ratio <= 1.2 else "no"


def _memory_growth(lasting: Sequence[Line]) -> tuple[str, str]:
    """The slope of the process with the largest certain growth, or else the largest possible growth, and the
    verdict."""
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
    """A row for each kind, with the calls to each server: the calls that ended as expected, and the others."""
    rows = [["calls", *line["processes"], "explained by a kill", "unexplained"]]
    for kind, servers in line["kinds"].items():
        ended = [f"{servers[server]['ended']:,}" for server in line["processes"]]
        others = [f"{sum(each[key] for each in servers.values()):,}" for key in ("explained", "unexplained")]
        rows.append([kind, *ended, *others])
    return rows


def latency_rows(line: Line) -> Rows:
    """A row for each kind and server, below a header."""
    rows = [["calls", "server", "p50", "p99", "p99, first", "p99, last"]]
    for kind, servers in line["latency"].items():
        for server, figures in servers.items():
            keys = ("p50_ms", "p99_ms", "first_p99_ms", "last_p99_ms")
            rows.append([kind, server, *("" if figures[key] is None else f"{figures[key]:.1f}" for key in keys)])
    return rows


def process_rows(line: Line) -> Rows:
    """A row for each process, below a header."""
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
    """The tables of a run by their names on the page."""
    rows_of = {
        "goals": (goal_rows(line), 0),
        "calls": (call_rows(line), 4),
        "latency": (latency_rows(line), 4),
        "processes": (process_rows(line), 0),
    }
    return {name: page.table(rows[0], rows[1:], right) for name, (rows, right) in rows_of.items()}


def longest(path: Path = RESULTS) -> Line:
    """The longest recorded run."""
    return max(results.read(path).values(), key=lambda line: float(line["minutes"]))


def text(path: Path = RESULTS) -> str:
    """The page."""
    line = longest(path)
    rules = {"fewest_calls": FEWEST_CALLS, "grows": GROWS, "small": SMALL}
    return page.render(_TEMPLATE, line=line, made_from=page.made_from(path, line), **rules, **tables(line))


def processes(line: Line) -> Figure:
    """A column for each server and a row for each figure; a dotted line marks when a worker was killed."""
    servers = line["processes"]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    rows = figure.subplots(len(_FIGURES), len(servers), sharex=True, sharey="row", squeeze=False)
    for row, (key, label) in zip(rows, _FIGURES.items(), strict=True):
        for axes, (server, members) in zip(row, servers.items(), strict=True):
            for colour, (name, process) in zip(COLOURS, members.items(), strict=False):
                axes.plot(process["minutes"], process[key], color=colour, linewidth=1.2, label=name)
            _finish(axes, line, server, titled=key == "rss_mb")
            axes.set_ylim(bottom=0)
        row[0].set_ylabel(label)
    rows[0][0].legend(frameon=False, fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("minutes")
    return figure


def latency(line: Line) -> Figure:
    """A column for each server: p99 by kind as lines, p50 thin."""
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    panels = figure.subplots(1, len(line["processes"]), sharey=True, squeeze=False)[0]
    for axes, server in zip(panels, line["processes"], strict=True):
        for colour, (kind, curve) in zip(COLOURS, _curves(line, server), strict=False):
            axes.plot(curve["minutes"], curve["p99_ms"], color=colour, linewidth=1.2, label=kind)
            axes.plot(curve["minutes"], curve["p50_ms"], color=colour, linewidth=0.7, alpha=0.6)
        axes.set_yscale("log")
        _finish(axes, line, server)
        axes.set_xlabel("minutes")
    panels[0].set_ylabel("p99, and thin p50, ms")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    curves = panels[0].get_legend_handles_labels()
    figure.legend(*curves, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curves(line: Line, server: str) -> Iterator[tuple[str, Line]]:
    return ((kind, servers[server]["curve"]) for kind, servers in line["latency"].items() if "curve" in servers[server])


def _finish(axes: Axes, line: Line, server: str, *, titled: bool = True) -> None:
    for kill in line["kills"]:
        if kill["server"] == server:
            axes.axvline(kill["minute"], color="0.6", linestyle=":", linewidth=0.8)
    finish(axes, server if titled else "", grid="y")


def _drawn(draw: Callable[[Line], Figure]) -> Callable[[], Figure]:
    return lambda: draw(longest())


PARTS = (Part("studies/soak/README.md", text),)
PICTURES = (
    Picture("studies/soak/processes.png", _drawn(processes)),
    Picture("studies/soak/latency.png", _drawn(latency), colours=128),
)
