"""The results as JSON, for programs: the types below are the schema, and `SCHEMA` its version.

Durations are seconds, rates calls or samples a second; a figure that does not exist is null. Fields are only ever added
within a version. Histograms are HdrHistogram's V2 encoding in base64, unit 1 µs, three significant digits: any
HdrHistogram library reads and merges them.
"""

import math
from dataclasses import asdict
from typing import Literal, TypedDict

from serving.loadtest.comparison import Comparison
from serving.loadtest.histogram import Histogram
from serving.loadtest.recorder import BlockResult
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import ClosedLoop, Load
from serving.loadtest.statistics import Interval

SCHEMA = "hangtag.loadtest/1"


class LoadDocument(TypedDict):
    """What a run was put under: `concurrency` for a closed loop, `rate` and `arrivals` for an open one."""

    kind: Literal["closed loop", "open loop"]
    concurrency: int | None
    rate: float | None  # Calls a second, as planned.
    arrivals: str | None  # poisson or constant


class DurationsDocument(TypedDict):
    """A distribution of durations in seconds. `histogram` holds all of it."""

    count: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    max: float | None
    histogram: str


class MeasuredDocument(TypedDict):
    """What was measured, in one block or over all of a run's."""

    queries: int  # Sent and ended, the warm-up's left out.
    warm_up_queries: int  # Discarded.
    duration: float  # Of the measuring, warm-up left out.
    throughput: float  # Answered calls a second.
    statuses: dict[str, int]  # gRPC status code to count, OK included.
    delayed_queries: int  # Open loop: sent more than 5 ms later than planned.
    latency: DurationsDocument  # From the planned send time to the answer; answered calls only.
    service_time: DurationsDocument  # From the actual send time to the answer; answered calls only.
    lateness: DurationsDocument  # From the planned to the actual send time; every call.


class RunDocument(TypedDict):
    """One model under one load."""

    model: str
    load: LoadDocument
    valid: bool
    problems: list[str]  # Why it is not valid.
    samples_per_second: float
    error_messages: dict[str, str]  # The first message of each status but OK.
    total: MeasuredDocument
    blocks: list[MeasuredDocument]  # In the order they ran; block i of every model ran next to each other.


class IntervalDocument(TypedDict):
    """A ratio with its 95 % bootstrap interval over blocks; low and high are null with a single block."""

    ratio: float | None
    low: float | None
    high: float | None


class ComparisonDocument(TypedDict):
    """A model's figures as multiples of the baseline's, under one load."""

    model: str
    baseline: str
    load: LoadDocument
    throughput: IntervalDocument
    p50: IntervalDocument
    p99: IntervalDocument
    sentence: str


class ServerDocument(TypedDict):
    """The server as it named itself."""

    address: str
    name: str
    version: str


class ResultsDocument(TypedDict):
    """The whole file."""

    schema: str
    valid: bool
    interrupted: bool
    started: str  # ISO 8601, UTC
    duration: float
    command: str
    scenario: dict[str, object]  # Every setting, the command's defaults included.
    server: ServerDocument
    samples: dict[str, str]  # Model to what was sent.
    environment: dict[str, str]
    runs: list[RunDocument]
    comparisons: list[ComparisonDocument]


def build(results: Results, compared: tuple[Comparison, ...]) -> ResultsDocument:
    """The document of these results; json.dumps takes it as it is."""
    return {
        "schema": SCHEMA,
        "valid": results.valid,
        "interrupted": results.interrupted,
        "started": results.started,
        "duration": results.duration,
        "command": results.command,
        "scenario": asdict(results.scenario),
        "server": {
            "address": results.target.address,
            "name": results.target.name,
            "version": results.target.version,
        },
        "samples": results.sources,
        "environment": results.environment,
        "runs": [_run(run) for run in results.runs],
        "comparisons": [
            {
                "model": comparison.model,
                "baseline": comparison.baseline,
                "load": _load(comparison.load),
                "throughput": _interval(comparison.throughput),
                "p50": _interval(comparison.p50),
                "p99": _interval(comparison.p99),
                "sentence": comparison.sentence,
            }
            for comparison in compared
        ],
    }


def _run(run: Run) -> RunDocument:
    return {
        "model": run.model,
        "load": _load(run.load),
        "valid": run.valid,
        "problems": list(run.problems),
        "samples_per_second": run.samples_per_second,
        "error_messages": run.total.details,
        "total": _measured(run.total),
        "blocks": [_measured(block) for block in run.blocks],
    }


def _load(load: Load) -> LoadDocument:
    if isinstance(load, ClosedLoop):
        return {"kind": load.kind, "concurrency": load.concurrency, "rate": None, "arrivals": None}
    return {"kind": load.kind, "concurrency": None, "rate": load.rate, "arrivals": load.arrivals}


def _measured(block: BlockResult) -> MeasuredDocument:
    return {
        "queries": block.queries,
        "warm_up_queries": block.warm_up_queries,
        "duration": block.window,
        "throughput": block.throughput,
        "statuses": dict(block.statuses),
        "delayed_queries": block.delayed,
        "latency": _durations(block.latency),
        "service_time": _durations(block.service),
        "lateness": _durations(block.lateness),
    }


def _durations(histogram: Histogram) -> DurationsDocument:
    p50, p90, p95, p99, p999 = (_number(histogram.percentile(q)) for q in (50, 90, 95, 99, 99.9))
    return {
        "count": len(histogram),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "p999": p999,
        "max": _number(histogram.maximum),
        "histogram": histogram.encode().decode(),
    }


def _interval(interval: Interval) -> IntervalDocument:
    low, high = _number(interval.low), _number(interval.high)
    return {"ratio": _number(interval.estimate), "low": low, "high": high}


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return value if math.isfinite(value) else None
