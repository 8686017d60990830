"""Compute a line of results from a measurement: counts, percentiles, and the figures of the processes over time."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from studies.results import Line
from studies.soak.calls import KINDS
from studies.soak.changes import Kill
from studies.soak.load import Outcome
from studies.soak.servers import FIGURES, Sample

if TYPE_CHECKING:
    from studies.soak.run import Measurement

_MOST_POINTS = 120
"""The maximum number of points in the curve of a process."""
_WARM_UP, _WARM_UP_SHARE = 300.0, 0.1
"""Comparisons leave out the beginning of a run: _WARM_UP seconds, but at most the share _WARM_UP_SHARE of the run."""
_COMPARED = 600.0
"""The maximum length in seconds of the first and of the last part of the run, which are compared."""
_SHOWN = 10
"""The number of failures that are listed with their messages."""
_BEFORE, _AFTER = 0.2, 1.0
"""Tolerances in seconds. A failed call is attributed to a kill if it ended at most _BEFORE before the kill (clocks are
inexact) or began at most _AFTER after the kill (the kernel closes a killed process's sockets late)."""

Parts = tuple[tuple[float, float], tuple[float, float]]
"""The start and the end, in seconds, of the first part of the run, and of the last part."""


def summary(measured: "Measurement") -> Line:
    """Return the data for goals, tables and pictures. Times are in minutes from the beginning of the load."""
    outcomes, names, seconds = measured.outcomes, [server.name for server in measured.servers], measured.seconds
    warm_up = min(_WARM_UP, seconds * _WARM_UP_SHARE)
    compared = min(_COMPARED, (seconds - warm_up) / 3)
    parts = (warm_up, warm_up + compared), (seconds - compared, math.inf)
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
        return counts | ({} if KINDS[number].fails else _latency(ended, parts))

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
        "warm_up_minutes": warm_up / 60,
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
                name: _process(samples, measured.began, parts)
                for (number, name), samples in measured.samples.items()
                if number == server
            }
            for server, server_name in enumerate(names)
        },
    }


def explained_by(failures: Sequence[Outcome], kills: Sequence[Kill]) -> tuple[list[list[Outcome]], list[Outcome]]:
    """Return the failures that each kill explains, and the failures that no kill explains.

    A kill explains a call's failure if the call went to the killed worker's server, ended with UNAVAILABLE, and was in
    flight at the kill or began so soon afterwards that the connection still seemed open.
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


def _replaced(measured: "Measurement") -> list[str]:
    """Return a sentence for each process that ended although it was not killed."""
    return [
        f"{name} of {measured.servers[number].name} ended, and was replaced, although it was not killed"
        for (number, name), samples in measured.samples.items()
        if name in ("supervisor", "worker 1") and len({sample.pid for sample in samples}) > 1
    ]


def _latency(calls: npt.NDArray[np.float64], parts: Parts) -> Line:
    """Return percentiles of the latency. ``calls`` [calls, 2] has each call's start in seconds and latency in ms."""
    at, times = calls.T
    first, last = (times[(at >= begin) & (at < end)] for begin, end in parts)
    chosen = {"p50_ms": (times, 50), "p99_ms": (times, 99), "first_p99_ms": (first, 99), "last_p99_ms": (last, 99)}
    return {
        name: float(np.percentile(values, percent)) if len(values) else None
        for name, (values, percent) in chosen.items()
    } | {"compared": [len(first), len(last)]}


def _process(samples: Sequence[Sample], began: float, parts: Parts) -> Line:
    """Return the figures of a process over time, and the medians of the first and of the last part of the run."""
    shown = samples[:: -(-len(samples) // _MOST_POINTS)]
    line: Line = {
        "lived_on": len({sample.pid for sample in samples}) == 1,
        "minutes": [round((sample.at - began) / 60, 2) for sample in shown],
    }
    for figure in FIGURES:
        line[figure] = [round(getattr(sample, figure), 1) for sample in shown]
        of_parts = (
            [getattr(sample, figure) for sample in samples if begin <= sample.at - began < end] for begin, end in parts
        )
        line[f"{figure}_first_last"] = [statistics.median(values) if values else None for values in of_parts]
    return line
