"""The HTML report is one self-contained file, escapes names, has a chart of every load, and looks good in a browser."""

import html
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hangtag.page.series import looks
from hangtag.serving.loadtest.report.charts import ModelPoint, accuracy_and_latency
from hangtag.serving.loadtest.statistics.intervals import Interval
from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke
from tests.serving.loadtest.command import HOSTILE, MACHINE, Measured, save, saved_run, steady

Written = tuple[Path, Measured]


@pytest.fixture(scope="module")
def pages(complete: Written, spoiled: Written, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The reports of two load tests, a comparison of saved results, and two pages with a chart of extreme values."""
    folder = tmp_path_factory.mktemp("pages")
    before, after = (
        [saved_run(name, load, *steady(seconds)) for name in ("a-model", "another") for load in (8, 500.0)]
        for seconds in (0.001, 0.01)
    )
    other = MACHINE | {"CPU": "a processor with quite a long name, 64 cores", "hangtag": "1.0"}
    files = (save(folder / "before.json", *before), save(folder / "after.json", *after, environment=other))
    invoke("loadtest", "compare", *files, "--html", folder / "compared.html")
    complete_page = complete[0] / "report.html"
    pages = [complete_page, spoiled[0] / "report.html", folder / "compared.html"]
    # With only two blocks, a confidence interval may span many orders of magnitude. In the second chart, the estimates
    # themselves span several orders of magnitude.
    for number, slow in enumerate((Interval(0.022, 2e-8, 2e4), Interval(3000.0, 1e-6, 1e7))):
        points = [
            ModelPoint(name, Interval(share, share - 0.01, share + 0.01), latency)
            for name, share, latency in (("fast", 0.95, Interval(2e-6, 1e-9, 1e6)), ("slow", 0.97, slow))
        ]
        picture = accuracy_and_latency(points, looks(("fast", "slow")))
        pages.append(folder / f"wide-{number}.html")
        head, _, _ = complete_page.read_text().partition("<h1>")
        figure = f'<h1>Wide</h1></header><figure class="card">{picture}</figure>'
        pages[-1].write_text(f"{head}{figure}</main></body></html>")
    return pages


def test_a_page_is_self_contained_and_looks_good_in_a_browser(pages: list[Path]) -> None:
    """The charts appear and nothing overflows, on a wide screen and on a phone, in dark and in light colours."""
    with chromium() as browser:
        for page in pages:
            text = page.read_text()
            assert text.startswith("<!DOCTYPE html>")
            assert not re.search(r"https?:|@import|url\((?!#)|<(script|link|iframe)", text)
            ids = re.findall(r'\bid="([^"]*)"', text)
            assert len(ids) == len(set(ids))
            assert set(re.findall(r'\b(?:src|href)="([^"]*)"', text)) <= {f"#{name}" for name in ids}
            opened = Counter(re.findall(r"<(\w+)\b(?:[^>]*[^/>])?>", text))
            del opened["meta"]
            assert opened == Counter(re.findall(r"</(\w+)>", text))
            require_good_looks(browser, page)


def cards(text: str) -> list[tuple[str, str]]:
    """The names of the most important results, each with its load."""
    return re.findall(
        r'<div><span class="small muted">([^<]*)</span><b>[^<]*</b>(?:<span [^>]*>[^<]*</span>)?'
        r'<span class="small muted">([^<]*)</span></div>',
        text,
    )


def common_load(runs: list[Any]) -> str:
    """The load for which the page compares latencies: the open loop if all its runs are valid, else the closed loop."""
    return "20 calls/s" if all(run["valid"] for run in runs if run["load"]["rate"]) else "2 in flight"


def test_the_page_has_every_load_and_figure(complete: Written) -> None:
    folder, measured = complete
    text = (folder / "report.html").read_text()
    plain = html.unescape(text)
    assert "prefers-color-scheme: dark" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    # Accuracy and throughput against latency, then the latency distribution and the timeline of each load.
    assert len(pictures) == 6
    assert 'aria-label="Accuracy against latency"' in pictures[0]
    # Each of the two targets is better on one metric, so both are on the Pareto front (the dashed line).
    assert len(re.findall(r'<path d="M [^"L]*L [^"L]*"[^>]*stroke-dasharray', pictures[0])) == 1
    for picture in pictures:
        assert "var(--series-1)" in picture  # the colour of `fast` in every chart
        assert "var(--series-4)" in picture
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
    assert "<h1>fast and slow" in text
    for line in measured.document["answer"].values():
        assert line in plain
    assert "4.00 MB" in text
    assert "88.82 to 97.85" in text
    for comparison in measured.document["comparisons"]:
        assert comparison["sentence"] in plain
    assert text.count("\u00d7") == 3 * sum(each["meaningful"] for each in measured.document["comparisons"])
    # The server reports 2 ms in the queue for each call.
    assert re.search(r"queue 2\.00 ms, compute 0 µs, network and both ends \d", plain)
    assert plain.count("late (p99), ") == 2  # the open loop's lateness
    warm_up = sum(each["total"]["warm_up_queries"] for each in measured.runs)
    assert re.search(rf"a warm-up of 50\.0 ms\s+is discarded \({warm_up} queries in all\)", plain)
    failed = [gate["failed"] for gate in measured.document["gates"]]
    assert len(re.findall(r"FAILED</span> ", text)) == failed.count(True)
    # PASSED is not shown in green, because the page may report a slowdown next to it.
    assert len(re.findall(r'<span class="pill plain">PASSED</span> not ', text)) == failed.count(False)
    assert "No call failed." in text


def test_the_page_says_what_went_wrong_and_keeps_names_as_they_are(spoiled: Written) -> None:
    folder, measured = spoiled
    text = (folder / "report.html").read_text()
    assert html.escape(HOSTILE) in text
    assert HOSTILE not in text
    assert "went away &lt;soon&gt;" in text
    (problem,) = measured.run(HOSTILE)["problems"]
    assert f"{html.escape(HOSTILE)}, 2 in flight: {problem}" in text
    assert text.count("no ratio, because a run is INVALID") == 1
    assert ("peak throughput", "2 in flight, INVALID") in cards(text)
    assert "samples/s" in text
    # Each of the eight targets has its own colour and symbol, which are the same wherever the target is named.
    looks = set(re.findall(r'data-sign="(.)" style="--series: var\((--series-\d)\)">([^<]*)</span>', text))
    assert [len({look[part] for look in looks}) for part in (0, 1, 2)] == [8, 8, 8]
    assert len(looks) == 8
    assert "<h1>8 models compared" in text
    assert "Accuracy against latency" not in text
    # The chart of `never` over time has no dots, only a cross for each failed call.
    assert len(re.findall(r"<svg.*?</svg>", text, re.DOTALL)) == 3
