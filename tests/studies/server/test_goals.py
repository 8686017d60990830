"""The goals' arithmetic, and the page that shows it."""

import copy
import statistics
from pathlib import Path

from studies import results
from studies.server import report
from studies.server.goals import GOALS, Goal
from tests.studies.server.document import lines, measurement

RATE = Goal("lstm", "16", "samples_per_s", 1.5, "hot")


def test_a_goal_is_the_median_of_each_rounds_own_ratio() -> None:
    measured = measurement(1000, 1200, 1900)
    measured["rounds"][2]["hot"]["lstm"]["16"]["samples_per_s"] = 950.0
    values = RATE.values(measured)
    assert [round(value, 3) for value in values] == [1.667, 1.667, 2.0]
    assert RATE.reached(values)
    assert not Goal("lstm", "16", "samples_per_s", 1.7, "hot").reached(values)


def test_a_share_of_bare_is_of_its_batches_whatever_the_load() -> None:
    assert Goal("lstm", "64", "samples_per_s", 0.6, "bare").values(measurement(1000, 1200)) == [0.5, 0.6]


def test_a_latency_and_a_bound_are_reached_from_below() -> None:
    latency = Goal("cnn", "1", "p50_ms", 0.62, "triton")
    assert statistics.median(latency.values(measurement(1000))) == 0.7
    assert not latency.reached([0.7])
    assert latency.reached([0.62])
    assert Goal(None, "start", "pss_mb", 150).reached(Goal(None, "start", "pss_mb", 150).values(measurement(1)))
    assert not Goal(None, "start", "seconds_to_ready", 1).reached([1.5])


def test_a_round_without_the_other_system_has_no_ratio() -> None:
    measured = measurement(1000, 2000)
    del measured["rounds"][0]["hot"]
    assert len(RATE.values(measured)) == 1


def test_every_goal_has_a_figure_in_a_complete_measurement() -> None:
    assert all(len(goal.values(measurement(1000))) == 1 for goal in GOALS)


def test_the_page_shows_each_goal_with_the_figures_of_all_systems(tmp_path: Path) -> None:
    results.write(tmp_path / "results.jsonl", lines(1000, 1200))
    text = report.part(tmp_path / "results.jsonl")
    assert "measured 2026-01-01 on 2 CPUs" in text
    assert "Other programs took less than 5 %" in text
    assert "commit 0123456789ab." in text
    row = (
        "| lstm, 16 in flight, images/s | native | ≥ 1.5 x hot | 1.67 | 1.67 to 1.67 | yes | 1,100 | 550 | 660 | 275 |"
    )
    assert row in text
    assert "| lstm, 64 in flight, images/s | grpc | ≥ 1.8 x ordinary | 2 | 2 to 2 | yes |" in text
    assert "| cnn, 10 x overload, memory gained, MB | native | ≤ 50 | 60 | 60 to 60 | no | 60.0 |" in text
    assert "| lstm | 64 in flight | 1,100 (1.00 / 2.00) | 550 (1.00 / 2.00) | 660" in text


def test_the_page_says_what_was_not_measured_and_that_others_used_the_machine(tmp_path: Path) -> None:
    partial = copy.deepcopy(lines(1000, others=0.21))
    del partial[1]["triton"], partial[1]["grpc"]
    results.write(tmp_path / "results.jsonl", partial)
    text = report.part(tmp_path / "results.jsonl")
    assert "**The machine was busy**: other programs took 21 to 21 %" in text
    assert "| lstm, 16 in flight, images/s | native | ≥ 1.4 x triton | not measured |" in text
    assert "`triton`" not in text
