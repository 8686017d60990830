"""Makes tables of the recorded soak: for a terminal, and for docs/soak.md."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from studies import page, results
from studies.page import Part
from studies.pictures import Picture
from studies.results import Line
from studies.soak import pictures
from studies.soak.goals import FEWEST_CALLS, GROWS, SMALL, goals, interval

RESULTS = Path(__file__).with_name("results.jsonl")
_TEMPLATE = Path(__file__).with_name("page.md.j2")
Rows = list[list[str]]


def tables(line: Line) -> list[Table]:
    """For a terminal: the goals, the calls, the latencies, the processes and the kills."""
    made = []
    for title, rows in (
        ("Goals", goal_rows(line)),
        ("Calls", call_rows(line)),
        ("Latency, ms", latency_rows(line)),
        ("Processes", process_rows(line)),
        ("Killed workers", kill_rows(line)),
    ):
        made.append(Table(*rows[0], title=title, box=None))
        for row in rows[1:]:
            made[-1].add_row(*row)
    return made


def goal_rows(line: Line) -> Rows:
    """A row for each goal, below a header."""
    rows = [["figure", "goal", "measured", "reached"]]
    for goal in goals(line):
        verdict = goal.judge(line)
        rows.append([goal.name, goal.bound, verdict.measured, verdict.reached])
    return rows


def call_rows(line: Line) -> Rows:
    """A row for each kind, with the calls to each server: those that ended as they should, and the others."""
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
            cells = ["" if figures[key] is None else f"{figures[key]:.1f}" for key in keys]
            rows.append([kind, server, *cells])
    return rows


def process_rows(line: Line) -> Rows:
    """A row for each process, below a header."""
    rows = [["server", "process", "RSS, MB", "PSS, MB", "MB an hour (95 %)", "descriptors", "threads"]]
    for server, processes in line["processes"].items():
        for name, process in processes.items():
            fit = process["mb_per_hour"]
            growth = "was killed" if not process["lived_on"] else "" if fit is None else interval(fit)
            memory = [f"{process[key][0]:.0f} to {process[key][-1]:.0f}" for key in ("rss_mb", "pss_mb")]
            rows.append([server, name, *memory, growth, *(_counts(process, key) for key in ("fds", "threads"))])
    return rows


def kill_rows(line: Line) -> Rows:
    """A row for each kill, below a header."""
    rows = [["minute", "server", "calls that it failed"]]
    rows += [[f"{kill['minute']:.1f}", kill["server"], str(kill["explained"])] for kill in line["kills"]]
    return rows


def _counts(process: Line, figure: str) -> str:
    first, last, most = process[f"{figure}_first_last_max"]
    return f"{first:g} to {last:g}, at most {most}" if first is not None and last is not None else f"at most {most}"


def longest(path: Path = RESULTS) -> Line:
    """The longest recorded run. Raises click.ClickException, as results.read."""
    return max(results.read(path).values(), key=lambda line: float(line["minutes"]))


def text(path: Path = RESULTS) -> str:
    """The page. Raises click.ClickException, as results.read."""
    if not path.exists():
        return page.render(_TEMPLATE, line=None)
    line = longest(path)
    made = {
        name: page.table(rows[0], rows[1:], right)
        for name, rows, right in (
            ("goals", goal_rows(line), 0),
            ("calls", call_rows(line), 4),
            ("latency", latency_rows(line), 4),
            ("processes", process_rows(line), 0),
        )
    }
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    rules = {"fewest_calls": FEWEST_CALLS, "grows": GROWS, "small": SMALL}
    return page.render(_TEMPLATE, line=line, versions=versions, **rules, **made)


def _drawn(draw: Callable[[Line], Figure]) -> Callable[[], Figure]:
    return lambda: draw(longest())


PARTS = (Part("docs/soak.md", text),)
PICTURES = (
    (
        Picture("soak-processes.png", _drawn(pictures.processes)),
        Picture("soak-latency.png", _drawn(pictures.latency)),
    )
    if RESULTS.exists()
    else ()
)
