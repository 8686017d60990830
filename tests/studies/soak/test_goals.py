"""Slopes with their intervals, and which goals a line of results reaches."""

import copy

import numpy as np
import pytest
from scipy import stats

from studies.results import Line
from studies.soak.goals import goals
from studies.soak.summary import slope


def test_a_slope_and_its_interval_are_those_of_scipy() -> None:
    minutes = np.arange(0.0, 60.0)
    noise = np.random.default_rng(0).normal(0, 0.5, 60)
    noise[1::2] -= 1.0  # Neighbours differ, so that the interval is not widened.
    values = 100 + minutes / 60 * 3 + noise
    fitted = stats.linregress(minutes / 60, values)
    half = stats.t.ppf(0.975, 58) * fitted.stderr
    assert slope(minutes, values) == pytest.approx((fitted.slope, fitted.slope - half, fitted.slope + half))


def test_two_points_have_no_slope() -> None:
    assert slope(np.array([0.0, 1.0]), np.array([1.0, 2.0])) is None


def test_a_slopes_interval_holds_the_true_slope_also_where_memory_moves_in_steps() -> None:
    chance = np.random.default_rng(1)
    minutes = np.arange(0.0, 40.0)
    held = 0
    for _ in range(400):
        values = np.zeros(40)
        for at in range(1, 40):  # each minute's memory is half that of the minute before, and half chance
            values[at] = 0.5 * values[at - 1] + chance.normal()
        _fitted, low, high = slope(minutes, values) or (0.0, 0.0, 0.0)
        held += low <= 0 <= high
    assert 0.88 < held / 400 < 0.99


def process(fit: tuple[float, float, float] | None, fds: tuple[int, int] = (30, 31), *, lived_on: bool = True) -> Line:
    counts = [*fds, 50]
    return {"lived_on": lived_on, "mb_per_hour": fit, "fds_first_last_max": counts, "threads_first_last_max": counts}


KINDS = ("ModelInfer, raw", "HTTP, JSON")
GOOD: Line = {
    "longest_delay": 0.9,
    "unexplained": 0,
    "wrong": 0,
    "problems": [],
    "log_errors": [],
    "latency": {
        kind: {
            server: {"first_p99_ms": 10.0, "last_p99_ms": 11.0, "compared": [1000, 1200]}
            for server in ("native", "tls")
        }
        for kind in KINDS
    },
    "processes": {
        "native": {"worker 1": process((4.0, -1.0, 9.0)), "worker 2": process(None, (1, 40), lived_on=False)},
        "tls": {"worker 1": process((1.9, 1.8, 2.0))},
    },
}
YES = ["yes"] * 5
"""Of the goals for the calls."""


def verdicts(line: Line) -> list[str]:
    return [goal.judge(line).reached for goal in goals(line)]


def test_a_good_run_reaches_every_goal() -> None:
    assert set(verdicts(GOOD)) == {"yes"}
    assert len(verdicts(GOOD)) == 5 + len(KINDS) + 3


def test_each_goal_is_judged_by_its_own_figure() -> None:
    def missed() -> list[int]:
        return [number for number, reached in enumerate(verdicts(line)) if reached == "no"]

    line = copy.deepcopy(GOOD)
    line["longest_delay"] = 1.1
    assert missed() == [0]
    line["unexplained"] = 1
    assert missed() == [0, 1]
    line["wrong"] = 1
    line["problems"] = ["version 3 of lstm does not serve"]
    line["log_errors"] = ["level=error"]
    assert missed() == [0, 1, 2, 3, 4]
    line["latency"][KINDS[1]]["tls"]["last_p99_ms"] = 12.1
    assert missed() == [0, 1, 2, 3, 4, 6]
    line["processes"]["tls"]["worker 1"]["mb_per_hour"] = (2.2, 2.1, 2.3)
    assert missed() == [0, 1, 2, 3, 4, 6, 7]
    line["processes"]["tls"]["worker 1"]["fds_first_last_max"] = [30, 41, 50]
    line["processes"]["native"]["worker 1"]["threads_first_last_max"] = [20, 23, 23]
    assert missed() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("fit", "reached"),
    [
        ((3.0, -4.0, 10.0), "yes"),
        ((9.0, -1.0, 19.0), "cannot tell"),
        ((-7.7, -134.1, 118.7), "cannot tell"),
        ((20.0, 2.1, 37.9), "no"),
        ((3.0, 2.5, 3.5), "no"),
    ],
)
def test_memory_is_judged_by_the_ends_of_the_interval_and_not_by_the_slope(
    fit: tuple[float, float, float], reached: str
) -> None:
    line = copy.deepcopy(GOOD)
    line["processes"]["native"]["worker 1"] = process(fit)
    memory = next(goal for goal in goals(line) if goal.name.startswith("memory")).judge(line)
    assert memory.reached == reached
    assert memory.measured == f"{fit[0]:+.1f} ({fit[1]:+.1f} to {fit[2]:+.1f})"


def test_one_process_that_grows_counts_even_if_another_varies_more() -> None:
    line = copy.deepcopy(GOOD)
    line["processes"]["native"]["worker 1"] = process((9.0, -100.0, 118.0))
    line["processes"]["tls"]["worker 1"] = process((3.0, 2.5, 3.5))
    assert verdicts(line)[7] == "no"
    assert goals(line)[7].judge(line).measured == "+3.0 (+2.5 to +3.5)"


def test_a_p99_of_too_few_calls_to_one_server_is_not_judged() -> None:
    line = copy.deepcopy(GOOD)
    line["latency"][KINDS[0]]["tls"] |= {"last_p99_ms": 99.0, "compared": [5000, 999]}
    assert verdicts(line) == [*YES, "not judged", "yes", "yes", "yes", "yes"]
    assert goals(line)[5].judge(line).measured == "999 calls"


def test_what_was_too_short_to_tell_is_neither_reached_nor_missed() -> None:
    line = copy.deepcopy(GOOD)
    for process_line in (each for server in line["processes"].values() for each in server.values()):
        process_line["mb_per_hour"] = None
        process_line["fds_first_last_max"] = process_line["threads_first_last_max"] = [None, None, 3]
    for servers in line["latency"].values():
        for figures in servers.values():
            figures |= {"first_p99_ms": None, "compared": [0, 30]}
    assert verdicts(line) == [*YES, "not judged", "not judged", "cannot tell", "cannot tell", "cannot tell"]
