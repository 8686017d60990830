"""Turns a measurement into a line of results: counts, curves of at most 120 points, and fitted slopes."""

import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.statistics.intervals import critical_value
from studies.results import Line
from studies.soak.calls import KINDS
from studies.soak.load import Outcome
from studies.soak.measurement import Measurement
from studies.soak.processes import Sample

_MOST_POINTS, _SHORTEST_WINDOW, _FEWEST_WINDOWS = 120, 60.0, 10
_WARM_UP, _WARM_UP_SHARE = 300.0, 0.1
"""Seconds that comparisons leave out, at most this share of the run."""
_UNSETTLED_SHARE = 1 / 3
"""The part of the run that slopes leave out: a process reaches the memory of its largest batches only after a while."""
_COMPARED = 600.0
"""Seconds at either end whose p99s are compared, at most a third of the run."""
_SHOWN = 10
"""Failures with their messages."""

Values = npt.NDArray[np.float64]


def summary(measured: Measurement) -> Line:
    """All that goals, tables and pictures need. Times in it are in minutes from the beginning of the load."""
    explained, unexplained = measured.tally.explained_by(measured.changes.kills)
    seconds = measured.seconds
    window = min(max(_SHORTEST_WINDOW, seconds / _MOST_POINTS), seconds / _FEWEST_WINDOWS)
    warm_up = min(_WARM_UP, seconds * _WARM_UP_SHARE)
    compared = min(_COMPARED, (seconds - warm_up) / 3)
    to_serve = measured.changes.seconds_to_serve
    return {
        "minutes": seconds / 60,
        "interrupted": seconds < measured.plan.seconds,
        "rate": measured.plan.rate,
        "calls": measured.tally.calls,
        "longest_delay": measured.tally.longest_delay,
        "server_cpus": measured.server_cpus,
        "client_cpus": measured.client_cpus,
        "window_minutes": window / 60,
        "warm_up_minutes": warm_up / 60,
        "unsettled_minutes": seconds * _UNSETTLED_SHARE / 60,
        "compared_minutes": compared / 60,
        "kinds": _kinds(measured, [each for kill in explained for each in kill], unexplained),
        "unexplained": len(unexplained),
        "wrong": sum(failure.error == "wrong answer" for failure in unexplained),
        "failures": [_shown(measured, failure) for failure in unexplained[:_SHOWN]],
        "problems": [*measured.changes.problems, *_replaced(measured)][:_SHOWN],
        "log_errors": [line[:300] for server in measured.servers for line in server.process.errors][:_SHOWN],
        "kills": [
            {"server": measured.servers[kill.server].name, "minute": _minute(measured, kill.at), "explained": len(each)}
            for kill, each in zip(measured.changes.kills, explained, strict=True)
        ],
        "model_versions": len(to_serve),
        "seconds_to_serve": max(to_serve, default=0.0),
        "latency": _latencies(measured, window, warm_up, compared),
        "processes": {
            server.name: {
                name: _process(measured, samples, window, warm_up, compared)
                for (number, name), samples in measured.samples.items()
                if measured.servers[number] is server
            }
            for server in measured.servers
        },
    }


def slope(minutes: Values, values: Values) -> tuple[float, float, float] | None:
    """The least-squares slope per hour, and the ends of its 95 % interval; None for fewer than three points.

    Memory moves in steps, so that a point resembles the one before it and says less than a point of its own would.
    Where neighbouring residuals are correlated by r > 0, the interval is wider by sqrt((1 + r) / (1 - r)), as it is for
    an autoregressive process of first order.
    """
    if len(minutes) < 3:
        return None
    hours = minutes / 60
    centred = hours - hours.mean()
    fitted = float(centred @ values / (centred @ centred))
    residuals = values - values.mean() - fitted * centred
    freedom = len(values) - 2
    squares = float(residuals @ residuals)
    correlation = float(residuals[1:] @ residuals[:-1]) / squares if squares else 0.0
    correlation = max(0.0, correlation)
    widening = np.sqrt((1 + correlation) / (1 - correlation))
    half = critical_value(freedom) * float(widening * np.sqrt(squares / freedom / (centred @ centred)))
    return fitted, fitted - half, fitted + half


def _kinds(measured: Measurement, explained: Sequence[Outcome], unexplained: Sequence[Outcome]) -> Line:
    def count(outcomes: Sequence[Outcome], kind: int, server: int) -> int:
        return sum((outcome.kind, outcome.server) == (kind, server) for outcome in outcomes)

    return {
        kind.name: {
            server.name: {
                "ended": measured.tally.ended.get((kind_number, number), 0),
                "explained": count(explained, kind_number, number),
                "unexplained": count(unexplained, kind_number, number),
            }
            for number, server in enumerate(measured.servers)
        }
        for kind_number, kind in enumerate(KINDS)
    }


def _shown(measured: Measurement, failure: Outcome) -> Line:
    return {
        "kind": KINDS[failure.kind].name,
        "server": measured.servers[failure.server].name,
        "minute": _minute(measured, failure.planned),
        "seconds": failure.seconds,
        "error": failure.error,
        "message": failure.message[:300],
    }


def _replaced(measured: Measurement) -> list[str]:
    """Processes that no kill was for and that ended nevertheless."""
    return [
        f"{name} of {measured.servers[number].name} ended, and was replaced, although it was not killed"
        for (number, name), samples in measured.samples.items()
        if name in ("supervisor", "worker 1") and len({sample.pid for sample in samples}) > 1
    ]


def _latencies(measured: Measurement, window: float, warm_up: float, compared: float) -> Line:
    edges = np.arange(measured.began, measured.ended - window / 2, window)

    def of(kind: int, server: int) -> Line:
        whole = measured.tally.latencies(kind, server)
        first = measured.tally.latencies(kind, server, measured.began + warm_up, measured.began + warm_up + compared)
        last = measured.tally.latencies(kind, server, measured.ended - compared)
        line: Line = {"p50_ms": _ms(whole, 50), "p99_ms": _ms(whole, 99)}
        line |= {"first_p99_ms": _ms(first, 99), "last_p99_ms": _ms(last, 99), "compared": [len(first), len(last)]}
        if KINDS[kind].drawn:
            windows = [measured.tally.latencies(kind, server, edge, edge + window) for edge in edges]
            line["curve"] = {
                "minutes": [_minute(measured, edge + window / 2) for edge in edges],
                "p50_ms": [_ms(each, 50) for each in windows],
                "p99_ms": [_ms(each, 99) for each in windows],
            }
        return line

    return {
        kind.name: {server.name: of(number, each) for each, server in enumerate(measured.servers)}
        for number, kind in enumerate(KINDS)
        if not kind.fails
    }


def _process(measured: Measurement, samples: Sequence[Sample], window: float, warm_up: float, compared: float) -> Line:
    at = np.array([sample.at for sample in samples]) - measured.began
    windows = (at // window).astype(int)
    chosen = [np.flatnonzero(windows == number) for number in sorted(set(windows))]

    def curve(figure: str) -> Values:
        values = np.array([getattr(sample, figure) for sample in samples], float)
        return np.array([values[each].mean() for each in chosen])

    minutes = np.array([at[each].mean() for each in chosen]) / 60
    settled = minutes >= measured.seconds * _UNSETTLED_SHARE / 60
    lived_on = len({sample.pid for sample in samples}) == 1
    line: Line = {
        "lived_on": lived_on,
        "mb_per_hour": slope(minutes[settled], curve("rss_mb")[settled]) if lived_on else None,
        "minutes": minutes.round(2).tolist(),
        **{figure: curve(figure).round(1).tolist() for figure in ("rss_mb", "pss_mb", "fds", "threads")},
    }
    first = [sample for sample, when in zip(samples, at, strict=True) if warm_up <= when < warm_up + compared]
    last = [sample for sample in samples if sample.at >= measured.ended - compared]
    for figure in ("fds", "threads"):
        line[f"{figure}_first_last_max"] = [
            statistics.median(getattr(sample, figure) for sample in first) if first else None,
            statistics.median(getattr(sample, figure) for sample in last) if last else None,
            max(getattr(sample, figure) for sample in samples),
        ]
    return line


def _minute(measured: Measurement, at: float) -> float:
    return round((at - measured.began) / 60, 2)


def _ms(seconds: Values, percentile: float) -> float | None:
    return float(np.percentile(seconds, percentile)) * 1e3 if len(seconds) else None
