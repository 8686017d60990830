"""The page in a real browser: pictures drawn, nothing overflows, no errors, in the dark and in the light."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from hangtag.serving.loadtest.comparison.compare import compare_saved, compare_targets
from hangtag.serving.loadtest.comparison.gates import GateOutcome
from hangtag.serving.loadtest.comparison.saved_results import SavedResults
from hangtag.serving.loadtest.measuring.accuracy import Accuracy
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.report import html, saved_comparison
from tests.serving.loadtest.builders import block, full_results, results

pytestmark = pytest.mark.slow

# Elements that reach beyond the window, or beyond a box that does not scroll; parts of an SVG have no such boxes.
OVERFLOWING = """() => [...document.querySelectorAll('body *:not(svg *)')]
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    || (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display !== 'inline'))
  .map(e => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 60)}`)"""
# Labels of a picture's horizontal axis that begin before the one to their left has ended.
COLLIDING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const labels = [...svg.querySelectorAll('[id*="xtick_"] text')].map(e => [e.getBoundingClientRect(), e.textContent]);
  labels.sort((a, b) => a[0].left - b[0].left);
  return labels.slice(1).filter((label, place) => label[0].left < labels[place][0].right + 2)
    .map(label => `${svg.getAttribute('aria-label')}: ${label[1]}`);
})"""
# Even the emptiest picture has this share of pixels that differ from its background.
INK = 0.005


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. These tests fail without it, because nothing else shows what a reader sees."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("chromium is missing: run 'make test', which installs it, or 'sudo apt-get install chromium'")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


class Seen:
    """A rendered page, and the browser's complaints about it."""

    def __init__(self, page: Page, file: Path) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self._page = page
        page.goto(file.as_uri())

    @property
    def overflowing(self) -> list[str]:
        elements: list[str] = self._page.evaluate(OVERFLOWING)
        return elements

    @property
    def colliding(self) -> list[str]:
        labels: list[str] = self._page.evaluate(COLLIDING)
        return labels

    @property
    def undrawn(self) -> list[str]:
        """The labels of empty pictures."""
        whole = np.asarray(Image.open(io.BytesIO(self._page.screenshot(full_page=True))).convert("RGB")).astype(int)
        empty = []
        for picture in self._page.query_selector_all("svg"):
            box = picture.bounding_box() or {"x": 0, "y": 0, "width": 1, "height": 1}
            left, top = int(box["x"]), int(box["y"])
            pixels = whole[top : top + int(box["height"]), left : left + int(box["width"])]
            different = np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60
            if different.mean() < INK:
                empty.append(picture.get_attribute("aria-label") or "?")
        return empty

    def brightness(self, selector: str, what: str) -> float:
        """Of a colour (0 black, 255 white)."""
        colour = self._page.evaluate(f"() => getComputedStyle(document.querySelector('{selector}')).{what}")
        return float(np.mean([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]))


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
        "full": full_results(),
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_drawn_and_fits(browser: Browser, pages: list[Path], width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    for file in pages:
        seen = Seen(page, file)
        assert seen.complaints == []
        assert seen.overflowing == []
        assert seen.colliding == []
        assert seen.undrawn == []
        dark = seen.brightness("body", "backgroundColor") < 128
        assert dark is (scheme == "dark")
        assert abs(seen.brightness("body", "backgroundColor") - seen.brightness("h1", "color")) > 150
    page.close()


def test_the_checks_notice_a_broken_page(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    (tmp_path / "broken.html").write_text(
        "<body><p style='width: 900px'>wide</p><div style='width: 50px; overflow: hidden'><pre>clipped as it is</pre>"
        "</div><svg width='90' height='90' aria-label='empty'></svg><img src='missing.png'>"
        "<script>console.error('oh')</script></body>"
    )
    seen = Seen(page, tmp_path / "broken.html")
    assert any("wide" in element for element in seen.overflowing)
    assert any("clipped" in element for element in seen.overflowing)
    assert seen.undrawn == ["empty"]
    assert "error: oh" in seen.complaints
    assert any("missing.png" in complaint for complaint in seen.complaints)
    page.close()
