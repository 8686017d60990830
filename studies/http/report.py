"""Makes tables of the measured rounds: for a terminal, and for docs/performance.md."""

from pathlib import Path

from rich.table import Table

from studies import page
from studies.http.systems import MODEL, SYSTEMS
from studies.page import Part
from studies.server import report
from studies.server.goals import RATE, Goal, Measurement

RESULTS = Path(__file__).with_name("results.jsonl")
LOADS = {load: f"{load} in flight" for load in ("1", "4", "16", "64")}
"""Over HTTP, as many connections; over gRPC at most 16, and several streams on each."""
GOALS = (
    *(Goal(MODEL, "64", RATE, 1.6, "fastapi", system=system) for system in ("http", "http-2")),
    *(Goal(MODEL, "16", RATE, 1.4, "fastapi", system=system) for system in ("http", "http-2")),
    Goal(MODEL, "1", "p50_ms", 1.0, "fastapi", system="http"),
    *(Goal(MODEL, load, RATE, 1.0, "triton", system="http") for load in ("16", "64")),
    *(Goal(MODEL, load, RATE, 0.95, "grpc-alone", system="grpc") for load in LOADS),  # unchanged, within noise
)


def tables(measured: Measurement) -> list[Table]:
    """For a terminal: the goals, then every load."""
    return report.as_tables(_goal_rows(measured), _load_rows(measured))


def _goal_rows(measured: Measurement) -> report.Rows:
    return report.goal_rows(measured, GOALS, SYSTEMS)


def _load_rows(measured: Measurement) -> report.Rows:
    return report.load_rows(measured, SYSTEMS)


def part(path: Path = RESULTS) -> str:
    """Both tables, with their source. Raises click.ClickException, as read."""
    measured = report.measurement(path)
    goal_table, load_table = (page.table(rows[0], rows[1:]) for rows in (_goal_rows(measured), _load_rows(measured)))
    return f"""{report.source(measured, "studies/http/results.jsonl", SYSTEMS)}

A goal is for the median of the rounds' figures, each a ratio within a round. The last columns are each system's own
figures, medians too:

{goal_table}

Images a second, with the latency's p50 / p99 in ms in brackets, medians:

{load_table}"""


PARTS = (Part("docs/performance.md", part, "http"),)
