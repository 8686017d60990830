"""The server's page in a browser: what a person does on the page, and what the page shows."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.kit import shipped
from tests.kit.browser import Seen
from tests.kit.live import TIMEOUT, Array

ROOT = shipped.MODELS.parent
EXAMPLES = ROOT / "examples"

HOSTILE = json.dumps([f"<img src=x onerror=document.title='taken'>{number}" for number in range(10)])
"""Labels that would run a script if the page read them as HTML."""
HOSTILE_METADATA = {
    "gate": '{"structure": {"nodes": [[null]]}, "cuda": 7, "parity": {"max_logit_difference": null}}',
    "test_accuracy": "very good",
    "parameters": "many",
    "speed": "[",
    "examples": '[{"label": 10, "png": ""}]',
}
"""Metadata with hangtag's keys, but with malformed values."""

# Fires the same events as a browser in which a person drops or pastes a file.
HAND_OVER = """([event, type, content, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type: 'image/png'}));
  const options = {bubbles: true, cancelable: true};
  document.dispatchEvent(event === 'paste' ? new ClipboardEvent(event, {...options, clipboardData: data})
    : new DragEvent(event, {...options, dataTransfer: data}));
}"""
# The elements that the Tab key must reach: one of each group of radio buttons or tabs, and all others.
REACHABLE = """() => [...document.querySelectorAll('button, input, a[href], summary, [tabindex]')]
  .filter(e => e.tabIndex >= 0 && e.offsetParent && (e.type !== 'radio' || e.checked)).map(e => e.outerHTML)"""
# The focused element, and whether an outline shows the focus. If the focused element is invisible, the outline is on
# the next element or on the enclosing stage.
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
        """Do something that makes the page call the models, and wait until all models have answered."""
        with self.page.expect_response(lambda response: "/v1/classify/" in response.url):
            action()
        self.wait_for_answers()

    def choose(self, *models: str) -> None:
        """Select these models, and no others."""
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

    def examples(self, *, shown: bool = False) -> list[str | None]:
        """The labels of the examples on the page. With ``shown``, only the label of the example that the page shows."""
        buttons = self.page.locator(f"#examples button{'[aria-pressed=true]' * shown}").all()
        return [button.get_attribute("title") for button in buttons]

    def drawing(self, height: int = 28, width: int = 28) -> tuple[bytes, Array]:
        """Download the drawing. Return the file, and the brightness of its pixels."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="drawing.png").click()
        drawing = Path(download.value.path()).read_bytes()
        grey = np.asarray(Image.open(io.BytesIO(drawing)).convert("L"))
        assert grey.shape == (height, width)
        return drawing, grey

    def code(self, language: str) -> str:
        self.page.get_by_role("tab", name=language, exact=True).click()
        return self.page.locator("#snippet").inner_text()


@contextmanager
def shown_page(browser: Browser, address: str, **context: Any) -> Iterator[Shown]:
    """Open the page in a separate browser context, and wait for its first answers."""
    with browser.new_context(viewport={"width": 1200, "height": 900}, **context) as own:
        shown = Shown(own.new_page(), f"http://{address}/")
        shown.wait_for_answers()
        yield shown


def picture(name: str) -> bytes:
    return (EXAMPLES / name).read_bytes()


def labels_by_code(page: Shown, folder: Path) -> dict[str, list[list[str]]]:
    """Run the code from the page, exactly as copied. Return each model's labels, keyed by the programming language."""
    labels = {}
    for language in ("curl", "Python", "grpcurl"):
        code = page.code(language)
        command = [sys.executable, "-c", code] if language == "Python" else ["bash", "-c", code]
        path = f"{ROOT / '.venv-peers/bin'}:{os.environ['PATH']}"
        run = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        labels[language] = _printed(run.stdout) if language == "Python" else _answered(run.stdout)
    return labels


def _answered(output: str) -> list[list[str]]:
    answer = json.loads(output)
    outcomes = answer.get("outcomes", [{"answer": answer}])
    return [[label["label"] for label in outcome["answer"]["labels"]] for outcome in outcomes]


def _printed(output: str) -> list[list[str]]:
    """Each model's labels in the output of the Python code."""
    lines = [re.sub(r" [\d.]+%", "", line).split(", ") for line in output.splitlines()]
    return [line[1:] for line in lines] if "," in output else [[line[0] for line in lines]]
