"""Draws the curves of a soak: memory, file descriptors and threads of each process, and the latency of each kind."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.pictures import COLOURS
from studies.results import Line

_FIGURES = {"rss_mb": "memory (RSS), MB", "fds": "file descriptors", "threads": "threads"}


def processes(line: Line) -> Figure:
    """A column for each server and a row for each figure; a dotted line where one of its workers was killed."""
    servers = line["processes"]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    rows = figure.subplots(len(_FIGURES), len(servers), sharex=True, sharey="row", squeeze=False)
    for row, (key, label) in zip(rows, _FIGURES.items(), strict=True):
        for axes, (server, members) in zip(row, servers.items(), strict=True):
            for colour, (name, process) in zip(COLOURS, members.items(), strict=False):
                axes.plot(process["minutes"], process[key], color=colour, linewidth=1.2, label=name)
            _finish(axes, line, server)
            axes.set_ylim(bottom=0)
        row[0].set_ylabel(label)
    for axes, server in zip(rows[0], servers, strict=True):
        axes.set_title(server, loc="left", fontsize=10)
    rows[0][0].legend(frameon=False, fontsize=8)
    _label_minutes(rows[-1])
    return figure


def latency(line: Line) -> Figure:
    """A column for each server: p99 by kind as lines, p50 thin."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    curves = {
        kind: servers for kind, servers in line["latency"].items() if all("curve" in each for each in servers.values())
    }
    panels = figure.subplots(1, len(line["processes"]), sharey=True, squeeze=False)[0]
    for axes, server in zip(panels, line["processes"], strict=True):
        for colour, (kind, figures) in zip(COLOURS, curves.items(), strict=False):
            curve = figures[server]["curve"]
            axes.plot(curve["minutes"], curve["p99_ms"], color=colour, linewidth=1.2, label=kind)
            axes.plot(curve["minutes"], curve["p50_ms"], color=colour, linewidth=0.7, alpha=0.6)
        axes.set_yscale("log")
        axes.set_title(server, loc="left", fontsize=10)
        _finish(axes, line, server)
    panels[0].set_ylabel("p99, and thin p50, ms")
    panels[-1].legend(frameon=False, fontsize=8)
    _label_minutes(panels)
    return figure


def _finish(axes: Axes, line: Line, server: str) -> None:
    for kill in line["kills"]:
        if kill["server"] == server:
            axes.axvline(kill["minute"], color="0.6", linestyle=":", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _label_minutes(panels: "list[Axes]") -> None:
    for axes in panels:
        axes.set_xlabel("minutes")
