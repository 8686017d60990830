"""The page in a browser: what a person does with it, and what it shows."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

from tests.kit.browser import Seen
from tests.kit.live import TIMEOUT

HOSTILE = json.dumps([f"<img src=x onerror=document.title='taken'>{number}" for number in range(10)])
"""Labels that would run a script if they were read as HTML."""
HOSTILE_METADATA = {
    "parity": '{"max_logit_difference": null}',
    "gate": '{"structure": {"nodes": [[null]]}, "cuda": 7}',
    "test_accuracy": "very good",
    "parameters": "many",
    "speed": "[",
}
"""What only looks like hangtag's own metadata."""

# Fires what a browser fires when a person drops or pastes a file.
HAND_OVER = """([event, type, content, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type: 'image/png'}));
  const options = {bubbles: true, cancelable: true};
  document.dispatchEvent(event === 'paste' ? new ClipboardEvent(event, {...options, clipboardData: data})
    : new DragEvent(event, {...options, dataTransfer: data}));
}"""
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

_READY = "() => document.querySelector('.answer') && !document.querySelector('.answer[aria-busy]')"


class Shown:
    """The open page."""

    def __init__(self, page: Page, url: str) -> None:
        page.set_default_timeout(TIMEOUT * 1e3)
        self.page = page
        self.seen = Seen(page, url)

    def wait_for_answers(self) -> None:
        self.page.wait_for_function(_READY)

    def ask(self, action: Callable[[], Any]) -> None:
        """Do something that asks the models, and wait until all have answered."""
        with self.page.expect_response(lambda response: "/v1/classify/" in response.url):
            action()
        self.wait_for_answers()

    def choose(self, *models: str) -> None:
        """Choose these models, and no others."""
        for chip in self.page.locator("#chooser label").all():
            name = chip.locator("input").input_value()
            if chip.locator("input").is_checked() != (name in models):
                chip.click()
        self.wait_for_answers()

    def labels(self, model: str) -> list[str]:
        return self.texts(f".answer[data-model='{model}'] .name")

    def shares(self, model: str) -> list[str]:
        return self.texts(f".answer[data-model='{model}'] .share")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()

    def code(self, language: str) -> str:
        self.page.get_by_role("tab", name=language, exact=True).click()
        return self.page.locator("#snippet").inner_text()


@contextmanager
def shown_page(browser: Browser, address: str, **context: Any) -> Iterator[Shown]:
    """The page, in a browser context of its own, once the first question is answered."""
    with browser.new_context(viewport={"width": 1200, "height": 900}, **context) as own:
        shown = Shown(own.new_page(), f"http://{address}/")
        shown.wait_for_answers()
        yield shown
