import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from hangtag.serving.loadtest.comparison.compare import compare_targets
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.generator.block_result import TimeSlice
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop, OpenLoop
from hangtag.serving.loadtest.report import html, pictures
from hangtag.serving.loadtest.report.pictures.overview import ModelPoint, pareto_front
from tests.serving.loadtest.builders import block, full_results, histogram, results, two_models

pytestmark = pytest.mark.slow


def page(measured: Results, outcomes: tuple[GateOutcome, ...] = ()) -> str:
    return html.render(measured, compare_targets(measured), outcomes)


@cache
def page_of_two_models() -> str:
    """Drawn once, for the tests that look for another part of it each."""
    return page(two_models())


@cache
def full_page() -> str:
    return page(full_results())


FAILED_ENTIRELY = results(Run((block("fast", ClosedLoop(1), (), failed=7, finished=False),), 1))


class Page(HTMLParser):
    """Collects what a page would load, its ids, and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value is not None:
                (self.references if value.startswith("#") else self.loads).append(value)
            if name == "id" and value is not None:
                self.ids.append(value)
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)
        if tag not in ("meta",):
            self.tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.tags.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.tags or self.tags.pop() != tag:
            self.unbalanced.append(tag)


@pytest.mark.parametrize(
    "draw",
    [
        page_of_two_models,
        full_page,
        lambda: page(two_models(failed=1)),
        lambda: page(results(interrupted=True)),
        lambda: page(FAILED_ENTIRELY),
    ],
    ids=["two models", "full", "failed calls", "interrupted", "failed entirely"],
)
def test_the_page_is_self_contained(draw: Callable[[], str]) -> None:
    text = draw()
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    parsed = Page(text)
    assert parsed.loads == []
    assert parsed.unbalanced == []
    assert parsed.tags == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)


def test_the_page_draws_every_load_in_colours_that_follow_the_scheme() -> None:
    text = page_of_two_models()
    assert "prefers-color-scheme: dark" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 5  # Throughput against latency; distribution and course of each load.
    for picture in pictures:
        assert "var(--series-0)" in picture
        assert "var(--series-1)" in picture
        assert not re.search(r"#0000[ef]\d", picture)
    assert "slow&#39;s p99 at 8 in flight is 4.0 times" in text


def test_without_comparisons_there_is_no_heading_for_them() -> None:
    run = Run((block("fast", OpenLoop(100.0)),), 1)
    assert "<h2>Compared</h2>" in page_of_two_models()
    assert "<h2>Compared</h2>" not in page(results(run, interrupted=True))


def test_more_models_than_colours_still_have_one_each() -> None:
    models = [f"m{number}" for number in range(8)]
    assert "var(--series-5)" in page(results(*(Run((block(model, ClosedLoop(1)),), 1) for model in models)))


def test_an_open_loop_shows_its_lateness_and_the_warm_up_is_counted() -> None:
    text = page(two_models(delayed=3))
    assert text.count("sent up to 100 µs late (p99)") == 2  # Not of the closed loops.
    assert "150 ms of warm-up before each\n    is discarded (40 queries in all)." in text


def test_the_problems_of_a_run_are_shown() -> None:
    text = page(two_models(failed=3, delayed=30))
    assert "went away &lt;soon&gt;" in text
    assert "the generator could not keep up" in text
    assert "The test was interrupted" in page(results(interrupted=True))


def test_no_ratio_of_an_invalid_run_is_shown() -> None:
    assert page_of_two_models().count("\u00d7") == 6  # three for each load
    text = page(two_models(failed=3))
    assert text.count("INVALID: no ratio") == 2  # both of slow's runs have failed calls
    assert "\u00d7" not in text


def test_a_problem_keeps_a_targets_name_as_it_is() -> None:
    assert "<li>slow: answers seem to be cached" in full_page()
    assert "<li>The test was interrupted: only a part was measured.</li>" in page(results(interrupted=True))


def test_the_first_picture_is_accuracy_against_latency() -> None:
    text = full_page()
    (first, *_) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert 'aria-label="Accuracy against latency"' in first
    assert "p99 at 500 calls/s" in text  # The open loop's, which is most like real use.
    assert "Accuracy against latency" not in page_of_two_models()


def test_an_accuracy_whose_loads_are_invalid_has_no_picture() -> None:
    choices, load = html.accuracy_choices(full_results(failed=1))
    assert (choices, load) == ([], None)


def test_the_pareto_front_joins_targets_that_no_other_beats_in_both() -> None:
    fast, good, bad, same = (
        ModelPoint("fast", 0.8, 0.001),
        ModelPoint("good", 0.9, 0.010),
        ModelPoint("bad", 0.79, 0.005),
        ModelPoint("same", 0.9, 0.020),
    )
    assert pareto_front([same, bad, good, fast]) == [fast, good]


def test_the_time_split_comes_from_the_servers_statistics() -> None:
    text = page_of_two_models()
    # Of 1,000 requests: 0.1 s in the queue, 0.52 s computing, and 1.5 ms a query on average.
    assert "queue 100 \u00b5s, compute 520 \u00b5s, network and both ends 880 \u00b5s" in text


def test_gates_are_shown() -> None:
    text = page(two_models(), (GateOutcome("a", False, "not a: fine"), GateOutcome("b", True, "b: broken")))
    assert re.search(r"PASSED</span> not a: fine", text)
    assert re.search(r"FAILED</span> b: broken", text)


def test_the_environment_names_provider_and_threads() -> None:
    text = page_of_two_models()
    assert "fast version 1 at 127.0.0.1:8001, CPUExecutionProvider, ONNX Runtime 1.99.0, 2 instances;" in text


def test_a_name_may_have_any_letters() -> None:
    text = page(results(Run((block("a<b>$x$&", OpenLoop(1.0)),), 1), accuracies={}))
    assert "a&lt;b&gt;$x$&amp;" in text
    assert "<b>$x$" not in text


def glance(text: str) -> list[tuple[str, str]]:
    """The figures of the cards at a glance, each with its load."""
    return re.findall(
        r'<span class="small muted">([^<]*)</span><b>[^<]*</b><span class="small muted">([^<]*)</span>', text
    )


def test_at_a_glance_the_latencies_are_of_one_load_that_all_targets_share() -> None:
    assert glance(page_of_two_models()) == 2 * [
        ("peak throughput", "8 in flight"),
        ("p50 latency", "500 calls/s"),
        ("p99 latency", "500 calls/s"),
    ]
    runs = [
        Run((block(name, load, delayed=delayed),), 1)
        for load in (ClosedLoop(8), OpenLoop(500.0))
        for name, delayed in (("fast", 0), ("slow", int(isinstance(load, OpenLoop))))
    ]
    where = {load for label, load in glance(page(results(*runs))) if label.endswith("latency")}
    assert where == {"8 in flight"}  # The open loop's run of `slow` is INVALID.


def test_at_a_glance_an_invalid_run_is_named_as_one() -> None:
    assert glance(page(results(Run((block("fast", ClosedLoop(8), failed=1),), 1)))) == [
        (label, "8 in flight, INVALID") for label in ("peak throughput", "p50 latency", "p99 latency")
    ]


def test_dots_over_time_are_joined_within_a_block_but_not_between() -> None:
    blocks = tuple(
        replace(
            block("fast", ClosedLoop(8)),
            timeline=tuple(TimeSlice(10.0 * number + at, 1.0, histogram(0.001 * (1 + at))) for at in range(4)),
        )
        for number in range(3)
    )
    svg = pictures.latency_over_time([Run(blocks, 1)], ("fast",))
    lines = [
        path for path in re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--series-0\)', svg) if "L" in path
    ]
    joined = [path for path in lines if path.count("M") == 1 and path.count("L") == 3]
    assert len(joined) == 2 * len(blocks)  # p50 and p99.
