"""A load test ends with three lines: which target to choose, how much better it is, and how sure this is."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hangtag.serving.loadtest.comparison.answer import answer
from hangtag.serving.loadtest.measuring.load_test import Results
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.plan.scenario import Scenario, Target
from hangtag.serving.loadtest.report import json_document, table
from hangtag.serving.loadtest.statistics.intervals import Accuracy
from tests.serving.loadtest.command import run_of

SAMPLES = 1000
TOO_SHORT = "Choose a, but the test is too short to be sure that it is better than noisy."


def results(targets: dict[str, tuple[float, int | None]], **scenario: Any) -> Results:
    """Results of targets, each with its milliseconds per answer and its right answers out of 1,000. The run of a target
    named "failing…" is INVALID, and the blocks of a target named "noisy…" vary widely."""
    runs, described = [], []
    for name, (milliseconds, right) in targets.items():
        factors = (0.5, 3.0, 1.0, 4.0) if name.startswith("noisy") else (1.0, 1.01, 1.0, 0.99)
        failed = int(name.startswith("failing"))
        blocks = [
            run_of(OpenLoop(50.0), *(milliseconds * each / 1e3,) * 500, failed=failed).blocks[0] for each in factors
        ]
        runs.append(replace(run_of(OpenLoop(50.0), 1.0, blocks=tuple(blocks)), target=name))
        accuracy = right and Accuracy(right, SAMPLES, right=np.arange(SAMPLES) < right)
        described.append(SimpleNamespace(name=name, samples="", accuracy=accuracy))
    settings = Scenario(tuple(Target(name, name) for name in targets), rate=(50.0,), **scenario)
    of_targets: Any = tuple(described)
    return Results(of_targets, settings, tuple(runs), False, "", 1.0, "")


@pytest.mark.parametrize(
    ("targets", "which", "how_much", "how_sure"),
    [
        ({"a": (2, None), "b": (8, None)}, "faster. The next best is b.", "b has a p99 of 8.0", "b's p99 is 4.0 to"),
        ({"a": (2, 900), "b": (8, 950)}, "Choose b for accuracy, a for speed.", "a classifies 90.00%", "+3.63 to +6.3"),
        ({"a": (2, 900), "m": (4, 930), "b": (8, 950), "x": (9, 940)}, "or m for a compromise.", "4.0 times", "b's "),
        ({"a": (2, 900), "b": (8, 950), "n": (9, 951)}, "Choose b for accuracy, a for speed.", "4.0 times", "b's "),
        ({"a": (2, 950), "b": (8, 900)}, "faster or more accurate.", "b 90.00%", "-6.35 to -3.63"),
        ({"a": (2, 950), "b": (8, 951)}, "Choose a: no other target is shown to be faster or more", "", "-0.1"),
        ({"a": (2, None), "noisy": (2, None), "slow": (90, None)}, TOO_SHORT, "noisy has", "--min-duration"),
        ({"a": (2, None), "b": (3, None), "failing": (1, None)}, "Choose a: ", "b has", "were left out: failing."),
        ({"a": (2, None), "failing": (1, None)}, "No target can be recommended.", "No two", "Without: failing."),
    ],
)
def test_what_the_intervals_show_decides(
    targets: dict[str, tuple[float, int | None]], which: str, how_much: str, how_sure: str
) -> None:
    reply = answer(results(targets))
    assert reply is not None
    assert which in reply.which
    assert how_much in reply.how_much
    assert how_sure in reply.how_sure


def test_long_names_cost_no_figure_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a-model-with-a-rather-long-name-{number}" for number in range(2)]
    measured = results({names[0]: (17.3, None), names[1]: (1234.5, None)})
    table.render(json_document.of(measured), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    figures = [" ".join(line.split()[-12:]) for line in lines[2:9]]
    assert "500 17.3 ms 17.5 ms 17.5 ms 17.5 ms 17.5 ms 0" in " ".join(figures)
    assert "1.23 s 1.25 s 1.25 s 1.25 s 1.25 s 0" in " ".join(figures)


def test_a_search_is_answered_by_its_peaks_and_one_target_by_nothing() -> None:
    assert answer(results({"a": (2, 900)})) is None
    search = results({"a": (2, None), "b": (2, None)}, find_peak=True, target_latency=0.01)
    next_best = "Choose b. The next best is a."
    for rates, which in (((100.0, 300.0), next_best), ((100.0, 103.0), "Choose b or"), ((100.0, None), "No target")):
        peaks: Any = tuple(SimpleNamespace(target=name, rate=rate) for name, rate in zip("ab", rates, strict=True))
        reply = answer(replace(search, peaks=peaks))
        assert reply is not None
        assert reply.which.startswith(which)
