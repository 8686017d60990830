"""The page in a real browser: pictures drawn, nothing overflows, no errors, in the dark and in the light."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from hangtag.serving.loadtest.comparison.compare import compare_saved, compare_targets
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.report import html, saved_comparison
from tests.kit.browser import Seen, chromium, require_good_looks
from tests.serving.loadtest.builders import block, full_results, results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def long_names() -> Results:
    """Six targets with long names, batches and failures: the widest table there is."""
    names = [f"a-model-with-a-rather-long-name-{number}" for number in range(6)]
    runs = [Run((block(name, ClosedLoop(64), (0.1,) * 600, failed=2),), 8) for name in names]
    return results(*runs, batch_size=8)


def close_together() -> Results:
    """Two targets with latencies that lie between two powers of ten: 18.6 and 29.2 ms."""
    runs = [Run((block(name, ClosedLoop(8), (p99,) * 600),), 1) for name, p99 in (("fast", 0.0186), ("slow", 0.0292))]
    return results(*runs, accuracies={"fast": Accuracy(894, 1000), "slow": Accuracy(912, 1000)})


def before_and_after() -> str:
    """Two saved results of machines that differ."""
    machines = [{"CPU": "a processor with quite a long name, 64 cores"}, {"CPU": "another", "hangtag": "1.0"}]
    before, after = (
        SavedResults(Path(f"{number}.json"), full_results().runs, {}, {}, machine, "2026-01-02T03:04:05+00:00")
        for number, machine in enumerate(machines)
    )
    pairs = saved_comparison.pairs_of(before, after, compare_saved(before, after))
    return saved_comparison.render_page(before, after, pairs)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The reports, written once."""
    folder = tmp_path_factory.mktemp("reports")
    outcomes = (GateOutcome("fast.p99 > 1ms", True, "fast.p99 > 1ms: fast's p99 at 8 in flight is 2.00 ms, too high"),)
    files = []
    every = {
        "full": full_results(others=1),
        "long": long_names(),
        "close": close_together(),
        "empty": results(interrupted=True),
    }
    for name, measured in every.items():
        files.append(folder / f"{name}.html")
        files[-1].write_text(html.render(measured, compare_targets(measured), outcomes), encoding="utf-8")
    files.append(folder / "comparison.html")
    files[-1].write_text(before_and_after(), encoding="utf-8")
    return files


def test_the_pages_are_drawn_and_fit(browser: Browser, pages: list[Path]) -> None:
    for file in pages:
        require_good_looks(browser, file)


def test_the_checks_notice_a_broken_page(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    (tmp_path / "broken.html").write_text(
        "<body><p style='width: 900px'>wide</p><p style='width: 30px; overflow-wrap: anywhere'>4,629,131</p>"
        "<div style='width: 50px; overflow: hidden'><pre>clipped as it is</pre>"
        "</div><svg width='90' height='90' aria-label='empty'></svg><img src='missing.png'>"
        "<script>console.error('oh')</script></body>"
    )
    seen = Seen(page, (tmp_path / "broken.html").as_uri())
    assert any("wide" in element for element in seen.overflowing)
    assert any("clipped" in element for element in seen.overflowing)
    assert seen.undrawn == ["empty"]
    assert seen.broken == ["4,629,131"]
    assert "error: oh" in seen.complaints
    assert any("missing.png" in complaint for complaint in seen.complaints)
    page.close()
