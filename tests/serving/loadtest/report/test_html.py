"""The HTML report: one file for itself, safe names, every load drawn; and how the pages look in a browser."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hangtag.serving.loadtest.report.pictures.overview import ModelPoint, pareto_front
from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke
from tests.serving.loadtest.command import GATES, HOSTILE, MACHINE, Measured, save, saved_run, steady

pytestmark = pytest.mark.slow

Written = tuple[Path, Measured]


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


@pytest.fixture(scope="module")
def pages(complete: Written, spoiled: Written, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of the two load tests, of saved results compared, and of a test that measured nothing."""
    folder = tmp_path_factory.mktemp("pages")
    loads: tuple[int | float, ...] = (8, 500.0)
    slower = [saved_run("a-model", load, *steady(0.01)) for load in loads]
    before = save(folder / "before.json", *(saved_run("a-model", load, *steady(0.001)) for load in loads))
    other = MACHINE | {"CPU": "a processor with quite a long name, 64 cores", "hangtag": "1.0"}
    after = save(folder / "after.json", *slower, environment=other)
    invoke("loadtest", "compare", before, after, "--html", folder / "compared.html")
    files = {
        "complete": complete[0] / "report.html",
        "spoiled": spoiled[0] / "report.html",
        "compared": folder / "compared.html",
    }
    for name, file in files.items():
        (folder / f"{name}.html").write_bytes(file.read_bytes())
    return {name: folder / f"{name}.html" for name in files}


def test_a_page_is_self_contained(pages: dict[str, Path]) -> None:
    for page in pages.values():
        text = page.read_text()
        assert text.startswith("<!DOCTYPE html>")
        assert not re.search(r"https?:|@import|url\((?!#)", text)
        parsed = Page(text)
        assert parsed.loads == []
        assert parsed.unbalanced == []
        assert parsed.tags == []
        assert len(parsed.ids) == len(set(parsed.ids))
        assert {reference[1:] for reference in parsed.references} <= set(parsed.ids)


def test_the_pages_look_good_in_a_browser(pages: dict[str, Path]) -> None:
    """Pictures drawn, nothing overflows, no errors, on a wide screen and a phone, in the dark and in the light."""
    with chromium() as browser:
        for page in pages.values():
            require_good_looks(browser, page)


def cards(text: str) -> list[tuple[str, str]]:
    """The figures at a glance, each with its load."""
    return re.findall(
        r'<span class="small muted">([^<]*)</span><b>[^<]*</b><span class="small muted">([^<]*)</span>', text
    )


def common_load(runs: list[Any]) -> str:
    """The load whose latencies stand for the targets: the open loop, unless the generator was late there."""
    return "20 calls/s" if all(run["valid"] for run in runs if run["load"]["rate"]) else "2 in flight"


def test_the_page_has_every_load_and_figure(complete: Written) -> None:
    folder, measured = complete
    text = (folder / "report.html").read_text()
    plain = html.unescape(text)
    assert "prefers-color-scheme: dark" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    # Accuracy against latency, throughput against latency; distribution and course of each load.
    assert len(pictures) == 6
    assert 'aria-label="Accuracy against latency"' in pictures[0]
    for picture in pictures:
        assert "var(--series-0)" in picture
        assert "var(--series-1)" in picture
        assert not re.search(r"#0000[ef]\d", picture)
    load = common_load(measured.runs)
    assert f"p99 at {load}" in text
    assert cards(text) == [
        figure
        for _ in range(2)
        for figure in (
            ("accuracy", "100 samples"),
            ("peak throughput", "2 in flight"),
            ("p50 latency", load),
            ("p99 latency", load),
        )
    ]
    assert "4.00 MB" in text
    assert "88.82 to 97.85" in text
    for comparison in measured.document["comparisons"]:
        assert comparison["sentence"] in plain
    assert text.count("\u00d7") == 3 * sum(each["meaningful"] for each in measured.document["comparisons"])
    # The server counts 2 ms in the queue for each call.
    assert re.search(r"queue 2\.00 ms, compute 0 µs, network and both ends \d", plain)
    assert plain.count("late (p99), ") == 2  # the open loop's
    warm_up = sum(each["total"]["warm_up_queries"] for each in measured.runs)
    assert re.search(rf"50\.0 ms of warm-up before each\s+is discarded \({warm_up} queries in all\)", plain)
    assert len(re.findall(r"FAILED</span> ", text)) == sum(GATES.values())
    assert len(re.findall(r"PASSED</span> not ", text)) == len(GATES) - sum(GATES.values())
    assert "No call failed." in text


def test_the_page_says_what_went_wrong_and_keeps_names_as_they_are(spoiled: Written) -> None:
    folder, measured = spoiled
    text = (folder / "report.html").read_text()
    assert html.escape(HOSTILE) in text
    assert HOSTILE not in text
    assert "went away &lt;soon&gt;" in text
    (problem,) = measured.run(HOSTILE)["problems"]
    assert f"{html.escape(HOSTILE)}, 2 in flight: {problem}" in text
    assert text.count("INVALID: no ratio") == 1
    assert ("peak throughput", "2 in flight, INVALID") in cards(text)
    assert "samples/s" in text
    assert "var(--series-5)" in text  # more targets than colours still have one each
    assert "Accuracy against latency" not in text
    # The course of `never` has no dots; a cross where calls failed.
    assert len(re.findall(r"<svg.*?</svg>", text, re.DOTALL)) == 3


def test_dots_over_time_are_joined_within_a_block_but_not_between(complete: Written) -> None:
    folder, measured = complete
    text = (folder / "report.html").read_text()
    (picture,) = re.findall(r'<svg[^>]*aria-label="Latency over time, 2 in flight".*?</svg>', text, re.DOTALL)
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--series-0\)', picture)
    blocks = [len([each for each in block["timeline"] if each["answered"]]) for block in measured.runs[0]["blocks"]]
    joined = sorted(
        path.count("L") for path in paths if path.count("M") == 1 and path.count("L") in {n - 1 for n in blocks}
    )
    assert joined == sorted(2 * [n - 1 for n in blocks])  # p50 and p99


def test_the_pareto_front_joins_targets_that_no_other_beats_in_both() -> None:
    fast, good, bad, same = (
        ModelPoint("fast", 0.8, 0.001),
        ModelPoint("good", 0.9, 0.010),
        ModelPoint("bad", 0.79, 0.005),
        ModelPoint("same", 0.9, 0.020),
    )
    assert pareto_front([same, bad, good, fast]) == [fast, good]
