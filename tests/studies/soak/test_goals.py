"""Slopes with their intervals, and which goals a line of results reaches."""

import copy

import numpy as np
import pytest
from scipy import stats

from studies.results import Line
from studies.soak.calls import KINDS
from studies.soak.goals import GOALS
from studies.soak.summary import slope

JUDGED = [kind.name for kind in KINDS if kind.judged]


def test_a_slope_and_its_interval_are_those_of_scipy() -> None:
    minutes = np.arange(0.0, 60.0)
    values = 100 + minutes / 60 * 3 + np.random.default_rng(0).normal(0, 0.5, 60)
    fitted = stats.linregress(minutes / 60, values)
    half = stats.t.ppf(0.975, 58) * fitted.stderr
    assert slope(minutes, values) == pytest.approx((fitted.slope, fitted.slope - half, fitted.slope + half))


def test_two_points_have_no_slope() -> None:
    assert slope(np.array([0.0, 1.0]), np.array([1.0, 2.0])) is None


def process(fit: tuple[float, float, float] | None, fds: tuple[int, int] = (30, 31), *, lived_on: bool = True) -> Line:
    counts = [*fds, 50]
    return {"lived_on": lived_on, "mb_per_hour": fit, "fds_first_last_max": counts, "threads_first_last_max": counts}


GOOD: Line = {
    "longest_delay": 0.9,
    "unexplained": 0,
    "wrong": 0,
    "problems": [],
    "log_errors": [],
    "latency": {
        kind: {server: {"first_p99_ms": 10.0, "last_p99_ms": 11.0} for server in ("native", "tls")} for kind in JUDGED
    },
    "processes": {
        "native": {"worker 1": process((9.0, -1.0, 19.0)), "worker 2": process(None, (1, 40), lived_on=False)},
        "tls": {"worker 1": process((1.9, 1.8, 2.0))},
    },
}


def missed(line: Line) -> list[int]:
    return [number for number, goal in enumerate(GOALS) if goal.reached(line) is False]


def test_a_good_run_reaches_every_goal() -> None:
    assert all(goal.reached(GOOD) for goal in GOALS)


def test_each_goal_is_judged_by_its_own_figure() -> None:
    line = copy.deepcopy(GOOD)
    line["longest_delay"] = 1.1
    assert missed(line) == [0]
    line["unexplained"] = 1
    assert missed(line) == [0, 1]
    line["wrong"] = 1
    line["problems"] = ["version 3 of lstm does not serve"]
    line["log_errors"] = ["level=error"]
    assert missed(line) == [0, 1, 2, 3, 4]
    line["latency"][JUDGED[0]]["tls"]["last_p99_ms"] = 12.1
    assert missed(line) == [0, 1, 2, 3, 4, 5]
    line["processes"]["tls"]["worker 1"]["mb_per_hour"] = (2.1, 2.0, 2.2)
    assert missed(line) == [0, 1, 2, 3, 4, 5, len(GOALS) - 3]
    line["processes"]["tls"]["worker 1"]["fds_first_last_max"] = [30, 41, 50]
    line["processes"]["native"]["worker 1"]["threads_first_last_max"] = [20, 23, 23]
    assert missed(line) == [0, 1, 2, 3, 4, 5, len(GOALS) - 3, len(GOALS) - 2, len(GOALS) - 1]


def test_what_was_too_short_to_tell_is_neither_reached_nor_missed() -> None:
    line = copy.deepcopy(GOOD)
    for process_line in (each for server in line["processes"].values() for each in server.values()):
        process_line["mb_per_hour"] = None
        process_line["fds_first_last_max"] = process_line["threads_first_last_max"] = [None, None, 3]
    for servers in line["latency"].values():
        for figures in servers.values():
            figures["first_p99_ms"] = None
    assert [goal.reached(line) for goal in GOALS] == [True] * 5 + [None] * (len(GOALS) - 5)
