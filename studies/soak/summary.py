"""Compute a line of results from a measurement: counts, percentiles, curves of the processes, and fitted slopes."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import stats

from studies.results import Line
from studies.soak.calls import KINDS
from studies.soak.changes import Kill
from studies.soak.load import Outcome
from studies.soak.servers import Sample

if TYPE_CHECKING:
    from studies.soak.run import Measurement

_MOST_POINTS, _SHORTEST_WINDOW, _FEWEST_WINDOWS = 120, 60.0, 10
_WARM_UP, _WARM_UP_SHARE = 300.0, 0.1
"""Comparisons leave out this many seconds at the beginning, but at most this share of the run."""
_UNSETTLED_SHARE = 1 / 3
"""Slopes leave out this share of the run at its beginning, because the first large batches increase memory."""
_COMPARED = 600.0
"""The maximum length in seconds of the first and of the last part of the run, whose p99s are compared."""
_SHOWN = 10
"""The number of failures that are listed with their messages."""
_BEFORE, _AFTER = 0.2, 1.0
"""Tolerances in seconds: a kill may explain a call that ended up to _BEFORE earlier, because clock readings are
inexact, or began up to _AFTER later, because the kernel closes the sockets of a killed process late."""

Values = npt.NDArray[np.float64]


def summary(measured: "Measurement") -> Line:
    """Return the data for goals, tables and pictures. Times are in minutes from the beginning of the load."""
    outcomes, names, seconds = measured.outcomes, [server.name for server in measured.servers], measured.seconds
    window = min(max(_SHORTEST_WINDOW, seconds / _MOST_POINTS), seconds / _FEWEST_WINDOWS)
    warm_up = min(_WARM_UP, seconds * _WARM_UP_SHARE)
    compared = min(_COMPARED, (seconds - warm_up) / 3)
    explained, unexplained = explained_by([each for each in outcomes if each.error], measured.changes.kills)
    times = defaultdict(list)
    for each in outcomes:
        if not each.error:
            times[each.kind, each.server].append((each.planned - measured.began, each.seconds * 1e3))
    by_kill, others = (
        Counter((each.kind, each.server) for each in some) for some in (chain.from_iterable(explained), unexplained)
    )

    def calls(number: int, server: int) -> Line:
        ended = np.array(times[number, server]).reshape(-1, 2)
        counts = {"ended": len(ended), "explained": by_kill[number, server], "unexplained": others[number, server]}
        return counts | ({} if KINDS[number].fails else _latency(ended, seconds, warm_up, compared))

    def minute(at: float) -> float:
        return round((at - measured.began) / 60, 2)

    return {
        "minutes": seconds / 60,
        "interrupted": seconds < measured.planned_seconds,
        "rate": measured.rate,
        "calls": len(outcomes),
        "longest_delay": max((outcome.delay for outcome in outcomes), default=0.0),
        "server_cpus": measured.server_cpus,
        "client_cpus": measured.client_cpus,
        "window_minutes": window / 60,
        "warm_up_minutes": warm_up / 60,
        "unsettled_minutes": seconds * _UNSETTLED_SHARE / 60,
        "compared_minutes": compared / 60,
        "kinds": {
            kind.name: {name: calls(number, server) for server, name in enumerate(names)}
            for number, kind in enumerate(KINDS)
        },
        "unexplained": len(unexplained),
        "wrong": sum(failure.error == "wrong answer" for failure in unexplained),
        "failures": [
            {
                "kind": KINDS[failure.kind].name,
                "server": names[failure.server],
                "minute": minute(failure.planned),
                "seconds": failure.seconds,
                "error": failure.error,
                "message": failure.message,
            }
            for failure in unexplained[:_SHOWN]
        ],
        "problems": [*measured.changes.problems, *_replaced(measured)][:_SHOWN],
        "log_errors": [line[:300] for server in measured.servers for line in server.process.errors][:_SHOWN],
        "kills": [
            {"server": names[kill.server], "minute": minute(kill.at), "explained": len(each)}
            for kill, each in zip(measured.changes.kills, explained, strict=True)
        ],
        "model_versions": len(measured.changes.seconds_to_serve),
        "seconds_to_serve": max(measured.changes.seconds_to_serve, default=0.0),
        "processes": {
            server_name: {
                name: _process(samples, measured.began, seconds, window, warm_up, compared)
                for (number, name), samples in measured.samples.items()
                if number == server
            }
            for server, server_name in enumerate(names)
        },
    }


def explained_by(failures: Sequence[Outcome], kills: Sequence[Kill]) -> tuple[list[list[Outcome]], list[Outcome]]:
    """Return the failures that each kill explains, and the failures that no kill explains.

    A kill explains the status UNAVAILABLE of a call to the killed worker's server if the call was in flight during the
    kill, or began so soon afterwards that the connection still seemed open.
    """
    explained: list[list[Outcome]] = [[] for _ in kills]
    unexplained = []
    for failure in failures:
        for number, kill in enumerate(kills):
            in_flight = failure.planned - _AFTER <= kill.at <= failure.planned + failure.seconds + _BEFORE
            if failure.error == "UNAVAILABLE" and failure.server == kill.server and in_flight:
                explained[number].append(failure)
                break
        else:
            unexplained.append(failure)
    return explained, unexplained


def slope(minutes: Values, values: Values) -> tuple[float, float, float] | None:
    """Return the least-squares slope per hour, and the ends of its 95 % interval; None for fewer than three points.

    Memory changes in steps, so neighbouring points resemble each other and contain less information than independent
    points. If neighbouring residuals have a correlation r > 0, the interval is wider by sqrt((1 + r) / (1 - r)), as for
    an autoregressive process of first order.
    """
    if len(minutes) < 3:
        return None
    fitted = stats.linregress(minutes / 60, values)
    residuals = values - fitted.intercept - fitted.slope * minutes / 60
    squares = float(residuals @ residuals)
    correlation = max(0.0, float(residuals[1:] @ residuals[:-1]) / squares if squares else 0.0)
    widening = np.sqrt((1 + correlation) / (1 - correlation))
    half = float(stats.t.ppf(0.975, len(values) - 2) * widening * fitted.stderr)
    return float(fitted.slope), float(fitted.slope - half), float(fitted.slope + half)


def _replaced(measured: "Measurement") -> list[str]:
    """Return a sentence for each process that ended although it was not killed."""
    return [
        f"{name} of {measured.servers[number].name} ended, and was replaced, although it was not killed"
        for (number, name), samples in measured.samples.items()
        if name in ("supervisor", "worker 1") and len({sample.pid for sample in samples}) > 1
    ]


def _latency(calls: Values, seconds: float, warm_up: float, compared: float) -> Line:
    """Return percentiles of the latency. ``calls`` is [calls, 2], with seconds from the beginning and latency in ms."""
    at, times = calls.T
    first = times[(at >= warm_up) & (at < warm_up + compared)]
    last = times[at >= seconds - compared]
    line: Line = {"p50_ms": _percentile(times, 50), "p99_ms": _percentile(times, 99)}
    line |= {"first_p99_ms": _percentile(first, 99), "last_p99_ms": _percentile(last, 99)}
    return line | {"compared": [len(first), len(last)]}


def _percentile(values: Values, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _process(
    samples: Sequence[Sample], began: float, seconds: float, window: float, warm_up: float, compared: float
) -> Line:
    at = np.array([sample.at for sample in samples]) - began
    chosen = [np.flatnonzero(at // window == number) for number in np.unique(at // window)]

    def curve(values: Values) -> Values:
        return np.array([values[each].mean() for each in chosen])

    figures = {
        figure: np.array([getattr(sample, figure) for sample in samples], float)
        for figure in ("rss_mb", "pss_mb", "fds", "threads")
    }
    minutes = curve(at) / 60
    settled = minutes >= seconds * _UNSETTLED_SHARE / 60
    lived_on = len({sample.pid for sample in samples}) == 1
    line: Line = {
        "lived_on": lived_on,
        "mb_per_hour": slope(minutes[settled], curve(figures["rss_mb"])[settled]) if lived_on else None,
        "minutes": minutes.round(2).tolist(),
        **{figure: curve(values).round(1).tolist() for figure, values in figures.items()},
    }
    ends = ((at >= warm_up) & (at < warm_up + compared), at >= seconds - compared)
    for figure in ("fds", "threads"):
        medians = [statistics.median(figures[figure][end]) if end.any() else None for end in ends]
        line[f"{figure}_first_last_max"] = [*medians, figures[figure].max()]
    return line
