"""Takes docs/images/page.png anew: the server's page in Chromium, with the shipped models and a minute of calls."""

import io
import shutil
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import sync_playwright

from studies import pictures
from studies.page import ROOT
from studies.server.process import hangtag_serve, served

FILE = pictures.FOLDER / "page.png"
SIZE = {"width": 1200, "height": 960}
COLOURS = 255
EXAMPLE = "Shirt"  # lstm is not sure of it, so the route shows both of its members
_ANSWERED = "() => document.querySelector('.answer') && !document.querySelector('.answer[aria-busy]')"


@click.command()
@click.option("--seconds", default=45, show_default=True, help="For how long pictures are asked about before.")
@click.option("--http-port", default=8000, show_default=True, help="The server's, which the page's code names.")
@click.option("--out", type=click.Path(path_type=Path), default=FILE, help="The picture.")
def main(seconds: int, http_port: int, out: Path) -> None:
    """Take the picture of the page anew, on a machine that should do nothing else, because it shows times.

    Needs Chromium, and a server's usual HTTP port to be free.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise click.ClickException("chromium is missing: 'apt-get install chromium' brings it.")
    launch = replace(
        hangtag_serve(ROOT / "models"),
        ready=r"^(?=.*event=ready ).*? http=(\S+)",  # the address to wait for is HTTP's
        environment={"HANGTAG_SERVE_HTTP_PORT": str(http_port)},
    )
    with served(launch) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport=SIZE, color_scheme="light").new_page()  # type: ignore[arg-type]
        page.goto(f"http://{server.address}/")
        page.wait_for_function(_ANSWERED)
        examples = page.locator("#examples button").all()
        end = time.monotonic() + seconds
        for example in cycle(examples):
            example.click()
            page.wait_for_function(_ANSWERED)
            page.wait_for_timeout(500)
            if time.monotonic() >= end:
                break
        page.get_by_role("button", name=EXAMPLE, exact=True).click()
        page.wait_for_function(_ANSWERED)
        page.wait_for_timeout(2500)  # the strip is drawn every other second
        shot = page.screenshot()
        browser.close()
    # A palette by frequency would lose the colours of small parts, such as a short time's.
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, optimize=True)
    click.echo(f"drew {out.name}")
