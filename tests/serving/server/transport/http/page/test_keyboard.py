"""The page without a pointer."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from hangtag import Client
from tests.kit.live import LiveServer
from tests.serving.server.transport.http.page.shown import shown_page

pytestmark = pytest.mark.slow

# What a keyboard has to reach: of radio buttons and tabs one of the group, the rest by arrows.
REACHABLE = """() => [...document.querySelectorAll('button, input, a[href], summary, [tabindex]')]
  .filter(e => e.tabIndex >= 0 && e.offsetParent && (e.type !== 'radio' || e.checked)).map(e => e.outerHTML)"""
# What has the focus, and whether that is shown: by itself, or by what stands for it where it is transparent or clipped.
FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;  // between the page's end and its beginning
  const unseen = e.matches('.hidden') || getComputedStyle(e).opacity === '0';
  const shown = unseen ? [e.nextElementSibling, e.closest('.stage')] : [e];
  return [e.outerHTML, shown.some(each => each && getComputedStyle(each).outlineStyle !== 'none')];
}"""


def test_keys_draw(browser: Browser, shown: LiveServer) -> None:
    with shown_page(browser, shown.server.http_address) as page:
        page.choose("lstm")
        keyboard = page.page.keyboard
        page.page.get_by_label("Choose", exact=True).focus()
        keyboard.press("ArrowRight")
        keyboard.press("Tab")
        expect(page.page.locator("#pad")).to_be_focused()
        pen = page.page.locator("#pen")
        expect(pen).to_be_visible()
        for key, times in (("ArrowUp", 9), (" ", 1), ("ArrowDown", 18)):
            for _ in range(times):
                keyboard.press(key)
        expect(pen).to_have_class("down")
        page.ask(lambda: keyboard.press(" "))
        expect(pen).not_to_have_class("down")
        with page.page.expect_download() as download:
            page.page.get_by_role("link", name="drawing.png").click()
        grey = np.asarray(Image.open(Path(download.value.path())).convert("L"))
        assert max(grey[:, :10].max(), grey[:3].max()) < 5
        assert grey[6:22, 13:15].min() > 200
        drawing = Path(download.value.path()).read_bytes()
        with Client(shown.server.address) as client:
            assert page.labels("lstm") == [label.name for label in client.classify(drawing, "lstm").labels]


@pytest.mark.parametrize("source", ["Choose", "Draw"])
def test_a_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, shown: LiveServer, source: str) -> None:
    with shown_page(browser, shown.server.http_address) as page:
        page.page.get_by_text(source, exact=True).click()
        page.page.evaluate("() => document.activeElement.blur()")
        expected = page.page.evaluate(REACHABLE)
        assert len(expected) > 12
        reached = {}
        for _ in range(len(expected) + 3):
            page.page.keyboard.press("Tab")
            if focused := page.page.evaluate(FOCUSED):
                reached[focused[0]] = focused[1]
        assert [element for element in expected if element not in reached] == []
        assert [element for element, is_shown in reached.items() if not is_shown] == []
