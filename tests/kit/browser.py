"""Renders pages in Chromium, and finds faults in their layout and colours."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Request, sync_playwright

# Find elements that extend past the window's right edge, and elements that are narrower than their content. Parts of
# an SVG, elements inside a scrolling box, and hidden elements for screen readers are left out.
OVERFLOWING = """() => [...document.querySelectorAll('body *:not(svg *)')]
  .filter(e => !e.closest('.scrolls, .hidden'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
    || (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display !== 'inline'))
  .map(e => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 60)}`)"""
# Find overlapping labels of a chart's horizontal axis.
COLLIDING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const labels = [...svg.querySelectorAll('[id*="xtick_"] text')].map(e => [e.getBoundingClientRect(), e.textContent]);
  labels.sort((a, b) => a[0].left - b[0].left);
  return labels.slice(1).filter((label, place) => label[0].left < labels[place][0].right + 2)
    .map(label => `${svg.getAttribute('aria-label')}: ${label[1]}`);
})"""
# Find words and numbers that a line break divides. Longer words, such as a hash or a path, may be divided.
BROKEN = """() => {
  const broken = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest('svg, style, code')) continue;
    for (const word of node.data.matchAll(/[^\\s/]{2,24}/g)) {
      if (/[^\\s/]/.test(node.data[word.index + word[0].length] || ' ')) continue;  // A part of a longer one.
      if (word.index > 0 && /[^\\s/]/.test(node.data[word.index - 1])) continue;
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (tops.size > 1 && !word[0].includes('-')) broken.push(word[0]);
    }
  }
  return broken;
}"""
LIGHT: Literal["light"] = "light"
DARK: Literal["dark"] = "dark"
# In every chart, at least this share of the pixels differs from the background.
INK = 0.005


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without which the tests fail."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("chromium is missing: run 'make test', which installs it, or 'sudo apt-get install chromium'")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


class Seen:
    """A rendered page, and the complaints that the browser logs about it."""

    def __init__(self, page: Page, address: str) -> None:
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._take_failure)
        self._page = page
        page.goto(address)

    def _take_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page aborts a request when it sends a newer one
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    @property
    def faults(self) -> list[str]:
        """Elements that are too wide, labels that overlap, and words that a line break divides."""
        return [fault for script in (OVERFLOWING, COLLIDING, BROKEN) for fault in self._page.evaluate(script)]

    @property
    def undrawn(self) -> list[str]:
        """The aria-label of each chart that is drawn empty."""
        whole = Image.open(io.BytesIO(self._page.screenshot(full_page=True, type="jpeg"))).convert("RGB")
        empty = []
        for picture in self._page.query_selector_all("svg"):
            box = picture.bounding_box() or {"x": 0, "y": 0, "width": 1, "height": 1}
            left, top = int(box["x"]), int(box["y"])
            cut = whole.crop((left, top, left + int(box["width"]), top + int(box["height"])))
            pixels = np.asarray(cut).astype(np.int16)
            different = np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60
            if different.mean() < INK:
                empty.append(picture.get_attribute("aria-label") or "?")
        return empty

    def require_scheme(self, scheme: str) -> None:
        """Fail if the page lacks the colours of this scheme, "light" or "dark", or if the contrast is too low."""
        background = self.brightness("body", "backgroundColor")
        assert (background < 128) is (scheme == "dark")
        assert abs(background - self.brightness("h1", "color")) > 150

    def brightness(self, selector: str, what: str) -> float:
        """The brightness of one of an element's colours, from 0 (black) to 255 (white)."""
        colour = self._page.evaluate(f"() => getComputedStyle(document.querySelector('{selector}')).{what}")
        return float(np.mean([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]))


def require_good_looks(browser: Browser, file: Path) -> None:
    """Fail if a page is broken or inaccessible in the light scheme on a wide screen, or in the dark one on a phone."""
    for width, scheme in ((1280, LIGHT), (390, DARK)):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        seen = Seen(page, file.as_uri())
        assert seen.complaints == []
        assert seen.faults == []
        assert seen.undrawn == []
        seen.require_scheme(scheme)
        _require_accessible(page)
        page.close()


def require_accessible(browser: Browser, address: str) -> None:
    """Fail if a server's page is inaccessible in the light or the dark scheme."""
    for scheme in (LIGHT, DARK):
        page = browser.new_page(bypass_csp=True, color_scheme=scheme)  # the page's CSP would block the script axe
        page.goto(address, wait_until="networkidle")
        _require_accessible(page)
        page.close()


def _require_accessible(page: Page) -> None:
    """Fail if axe-core finds a violation of the rules for accessible pages."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
