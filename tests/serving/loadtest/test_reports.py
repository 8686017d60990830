import io
import json
import re
import typing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from serving.loadtest import document, environment, html, progress, table
from serving.loadtest.comparison import comparisons
from serving.loadtest.generator import Block, Snapshot
from serving.loadtest.histogram import Histogram
from serving.loadtest.results import Results, Run
from serving.loadtest.scenario import ClosedLoop, OpenLoop, Scenario
from serving.loadtest.session import Progress
from tests.serving.loadtest.builders import block, results, two_models


def printed(of: Results, width: int = 80) -> str:
    text = io.StringIO()
    table.render(of, comparisons(of), Console(file=text, width=width))
    return text.getvalue()


def page(of: Results) -> str:
    return html.render(of, comparisons(of))


FAILED_ENTIRELY = results(Run((block("fast", ClosedLoop(1), (), failed=7, finished=False),), 1))


def test_the_table_sets_models_side_by_side_within_80_columns() -> None:
    lines = printed(two_models()).splitlines()
    assert max(map(len, lines)) <= 80
    start = next(number for number, line in enumerate(lines) if "closed loop, 8 in flight" in line)
    head, fast, slow, ratio = (line.split() for line in lines[start + 1 : start + 5])
    assert head == ["calls/s", "p50", "p90", "p95", "p99", "max", "failed"]
    assert (fast[0], slow[0]) == ("fast", "slow")
    assert fast[1] == "200"
    assert ratio[:4] == ["slow", "/", "fast", "0.250\u00d7"]
    assert "INVALID" not in printed(two_models())


def test_batches_are_also_counted_in_samples() -> None:
    text = printed(results(Run((block("fast", ClosedLoop(1), (0.001,) * 5),), batch_size=8), batch_size=8), 120)
    assert re.search(r"calls/s\s+samples/s", text)
    assert re.search(r"fast\s+5\.00\s+40\.0", text)


def test_what_makes_a_run_invalid_is_said_everywhere() -> None:
    bad = two_models(failed=3, delayed=30)
    text = printed(bad, 200)
    assert "INVALID slow, 8 in flight: 15 of 265 calls failed (15 UNAVAILABLE)" in text
    assert "UNAVAILABLE: went away <soon>" in text
    assert "INVALID slow, 500 calls/s: the generator could not keep up" in text
    assert "went away &lt;soon&gt;" in page(bad)
    assert "the generator could not keep up" in page(bad)
    written = document.build(bad, comparisons(bad))
    assert not written["valid"]
    assert written["runs"][1]["problems"] == ["15 of 265 calls failed (15 UNAVAILABLE)"]


def check(value: Any, declared: Any, path: str = "results") -> None:
    """A value against the TypedDicts that document the schema: no field missing, none unknown, the right type."""
    if typing.is_typeddict(declared):
        hints = typing.get_type_hints(declared)
        assert set(value) == set(hints), path
        for name, hint in hints.items():
            check(value[name], hint, f"{path}.{name}")
    elif typing.get_origin(declared) is list:
        for place, element in enumerate(value):
            check(element, typing.get_args(declared)[0], f"{path}[{place}]")
    elif typing.get_origin(declared) is dict:
        for name, element in value.items():
            check(element, typing.get_args(declared)[1], f"{path}[{name!r}]")
    elif typing.get_origin(declared) is typing.Literal:
        assert value in typing.get_args(declared), path
    else:
        alternatives = typing.get_args(declared) or (declared,)
        kinds = tuple((int, float) if kind is float else kind for kind in alternatives)
        assert any(isinstance(value, kind) for kind in kinds), f"{path}: {value!r} is not {declared}"


@pytest.mark.parametrize("of", [two_models(), results(interrupted=True), FAILED_ENTIRELY])
def test_the_json_follows_its_schema(of: Results) -> None:
    text = json.dumps(document.build(of, comparisons(of)), allow_nan=False)
    check(json.loads(text), document.ResultsDocument)


def test_the_json_holds_the_histograms_and_the_figures_of_each() -> None:
    (run, *_) = document.build(two_models(), ())["runs"]
    latency = run["total"]["latency"]
    histogram = Histogram(latency["histogram"].encode())
    assert len(histogram) == latency["count"] == 1000
    assert histogram.percentile(99) == latency["p99"] == pytest.approx(0.00199, rel=0.01)
    assert len(run["blocks"]) == 5
    assert run["load"] == {"kind": "closed loop", "concurrency": 8, "rate": None, "arrivals": None}


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


@pytest.mark.parametrize("of", [two_models(), two_models(failed=1), results(interrupted=True), FAILED_ENTIRELY])
def test_the_page_needs_nothing_but_itself(of: Results) -> None:
    text = page(of)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    parsed = Page(text)
    assert parsed.loads == []
    assert parsed.unbalanced == []
    assert parsed.tags == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)


def test_the_page_draws_every_load_in_colours_that_follow_the_scheme() -> None:
    text = page(two_models())
    assert "prefers-color-scheme: dark" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3  # Throughput against latency, and a distribution for each load.
    for picture in pictures:
        assert "var(--series-0)" in picture
        assert "var(--series-1)" in picture
        assert not re.search(r"#0000[ef]\d", picture)
    assert "slow&#39;s p99 at 8 in flight is 4.0 times" in text


def test_more_models_than_colours_still_have_one_each() -> None:
    models = [f"m{number}" for number in range(8)]
    assert "var(--series-5)" in page(results(*(Run((block(model, ClosedLoop(1)),), 1) for model in models)))


def test_an_interrupted_test_says_so() -> None:
    assert "Interrupted" in printed(results(interrupted=True))
    assert "Nothing was measured." in printed(results(interrupted=True))
    assert "The test was interrupted" in page(results(interrupted=True))


def test_progress_is_shown_on_a_terminal_and_nowhere_else() -> None:
    load = OpenLoop(500.0)
    order = Block("cnn", load, Scenario(("cnn",)).limits, 0.1, 0, 0)
    at = Progress(order, 1.0, 9.0, Snapshot(0.5, 250, 3, 499.0, 0.0012, 0.0345))
    for terminal in (True, False):
        written = io.StringIO()
        with progress.live(Console(file=written, force_terminal=terminal, color_system=None, width=150)) as show:
            show(at)
        text = written.getvalue()
        assert ("cnn, 500 calls/s" in text) is terminal
        if terminal:
            assert "499 calls/s  p50 1.20 ms  p99 34.5 ms  3 errors" in text
            assert "9 s left" in text


def test_the_environment_names_processor_and_versions() -> None:
    described = environment.describe()
    assert described["CPU"]
    assert re.fullmatch(r"\d+ of \d+", described["CPUs usable"])
    assert described["grpcio"][0].isdigit()


def test_an_environment_without_cpuinfo_or_distribution_is_still_described(tmp_path: Path) -> None:
    assert environment._cpu_model(tmp_path / "missing")
    assert environment._version("no-such-distribution") == "not installed as a distribution"
