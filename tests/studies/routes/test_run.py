"""`python -m studies routes`: what a run measures and records, and which goals its figures reach."""

import copy
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.training.data.fashion_mnist import Split
from studies import results
from studies.results import Line
from studies.routes.goals import GOALS
from studies.routes.report import goal_rows, part
from studies.routes.repository import repository
from studies.routes.run import main
from tests.kit.shipped import MODELS

LOAD = {
    "lstm": {"calls_per_s": 8000, "p50_ms": 0.5, "p99_ms": 1, "cpu_us": 200},
    "route": {"calls_per_s": 5000, "p50_ms": 0.6, "p99_ms": 3, "cpu_us": 400},
    "cnn": {"calls_per_s": 1600, "p50_ms": 1.0, "p99_ms": 4, "cpu_us": 1200},
}
PRIMARY = {"calls_per_s": 2000, "p50_ms": 1, "p99_ms": 2, "cpu_us": 200, "copied": 0.9}
ROUND: Line = {
    "run": "round 1",
    "cascade": {load: copy.deepcopy(LOAD) for load in ("1", "4", "16", "64")},
    "shadow": {run: dict(PRIMARY) for run in ("alone", "shadowed", "busier")},
    "accuracy": {"lstm": 0.93, "route": 0.9462, "cnn": 0.9467, "images": 10000},
    "split": {"calls": 100_000, "counts": {"lstm": 90_100, "lstm-before": 9_900}, "deviations": 1.05},
    "others": 0.0,
}


def reached(line: Line) -> list[str]:
    return [row[-1] for row in goal_rows([line])[1:]]


def test_each_goal_is_judged_by_its_own_figure() -> None:
    assert reached(ROUND) == ["yes"] * len(GOALS)
    spoiled = copy.deepcopy(ROUND)
    spoiled["accuracy"]["route"] = 0.9456
    assert reached(spoiled) == ["no", "yes", "yes", "yes", "yes"]
    spoiled["cascade"]["64"]["route"]["calls_per_s"] = 3900
    assert reached(spoiled) == ["no", "no", "yes", "yes", "yes"]
    spoiled["cascade"]["1"]["route"]["p50_ms"] = 0.71
    assert reached(spoiled) == ["no", "no", "no", "yes", "yes"]
    spoiled["split"]["deviations"] = 3.3
    assert reached(spoiled) == ["no", "no", "no", "no", "yes"]
    spoiled["shadow"]["shadowed"]["p99_ms"] = 2.3
    assert reached(spoiled) == ["no"] * len(GOALS)


def test_what_is_measured_once_is_judged_by_the_round_that_has_it() -> None:
    later = {key: value for key, value in ROUND.items() if key not in ("accuracy", "split")}
    assert GOALS[0].values([ROUND, later]) == pytest.approx([0.05])
    assert len(GOALS[1].values([ROUND, later])) == 2


def test_without_results_the_page_says_which_command_measures(tmp_path: Path) -> None:
    assert "measured yet: `python -m studies routes run`" in part(tmp_path / "results.jsonl")


def test_a_repository_without_the_route_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(click.ClickException, match="has no nobody, which this study measures"),
        repository(MODELS, "nobody"),
    ):
        raise AssertionError("refused before")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (Debian: nghttp2-client)")
def test_a_run_measures_the_cascade_the_split_and_the_shadow(garments: Split, tmp_path: Path) -> None:
    samples, out = tmp_path / "garments.npz", tmp_path / "results.jsonl"
    np.savez(samples, image=garments.images[:200], labels=garments.classes[:200])
    arguments = ["--rounds", "1", "--seconds", "0.05", "--calls", "1000", "--models", str(MODELS)]
    result = CliRunner().invoke(
        main, [*arguments, "--samples", str(samples), "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert list(lines) == ["conditions", "round 1"]
    measured = lines["round 1"]
    for load in ("1", "4", "16", "64"):
        for system in ("lstm", "route", "cnn"):
            figures = measured["cascade"][load][system]
            assert figures["calls_per_s"] > 10
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
            assert figures["cpu_us"] > 10
    accuracy = measured["accuracy"]
    assert accuracy["images"] == 200
    assert all(0.85 < accuracy[system] <= 1 for system in ("lstm", "route", "cnn"))
    assert sum(measured["split"]["counts"].values()) == 1000
    assert measured["split"]["deviations"] < 5  # more has a chance of 1 in 1,000,000
    shadow = measured["shadow"]
    assert shadow["rate_per_s"] == pytest.approx(shadow["peak_per_s"] / 2, rel=1e-3)
    assert 0 < shadow["shadowed"]["copied"] <= 1
    text = part(out)
    assert "`fast-and-accurate`" in text
    assert "Of 1,000 calls to the split, " in text
