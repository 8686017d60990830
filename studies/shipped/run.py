"""Load-test the shipped models and their route on a server on this machine, with all test images.

The results are throughput, latency and accuracy of each model.
"""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from PIL import Image
from playwright.sync_api import sync_playwright

from hangtag.training.data.fashion_mnist import DEBIAN_DIR
from studies import results
from studies.bench.process import hangtag_serve, served
from studies.page import ROOT

RESULTS = Path(__file__).with_name("results.jsonl")
MODELS = ("lstm", "lstm2", "cnn-small", "cnn")
PRECISIONS = ("lstm-int8", "lstm2-int8", "cnn-small-int8", "cnn-int8")
ROUTE = "fast-and-accurate"
IMAGES = ROOT / "docs/images"
ACCURACY = "accuracy"
_SETTLED_MS = 5000
LATENCIES = ("p50", "p90", "p95", "p99")
ENVIRONMENT = ("CPU", "CPUs usable", "Python", "hangtag", "grpcio")


def lines(document: Mapping[str, Any]) -> Iterator[results.Line]:
    """Yield lines for the conditions, the accuracies and the runs in a document of `hangtag loadtest --json`."""
    yield {
        "run": "conditions",
        "command": results.command(),
        "date": document["started"][:10],
        "valid": document["valid"],
        "environment": {key: document["environment"][key] for key in ENVIRONMENT},
    }
    versions = {target["name"]: target["answering_version"] for target in document["targets"]}
    for target in document["targets"]:
        measured, name = target["accuracy"], target["name"]
        line = {"run": f"{name}, {ACCURACY}", "model": name, "version": versions[name]}
        yield line | {"accuracy": measured["accuracy"], "images": measured["total"]}
    for run in document["runs"]:
        load, total = run["load"], run["total"]
        name = f"{load['concurrency']} in flight" if load["concurrency"] else f"{load['rate']:g} calls/s"
        yield {
            "run": f"{run['model']}, {name}",
            "model": run["model"],
            "version": versions[run["model"]],
            "concurrency": load["concurrency"],
            "rate": load["rate"],
            "throughput": total["throughput"],
            "latency_s": {percentile: total["latency"][percentile] for percentile in LATENCIES},
        }


@click.command()
@click.option("--seconds", default=6, show_default=True, help="The minimum duration of each run in seconds.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(seconds: int, out: Path) -> None:
    """Load-test the shipped models and their route on this machine, which should do nothing else.

    The test images come from Debian's package dataset-fashion-mnist. To measure accuracy, each target answers every
    test image once. The load consists of 256 random test images.

    If Chromium is installed, and --out is the default, the command also takes new screenshots of the server's page and
    of the load test's report.
    """
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    document, html = reports / "shipped.json", reports / "shipped.html"
    if not DEBIAN_DIR.is_dir():
        raise click.ClickException(f"{DEBIAN_DIR} is missing: 'apt-get install dataset-fashion-mnist' installs it.")
    with served(hangtag_serve(ROOT / "models", "--transport", "native")) as server:
        arguments = ["loadtest", *MODELS, *PRECISIONS, ROUTE, "--server", server.address]
        arguments += ["--samples", str(DEBIAN_DIR), "--accuracy"]
        arguments += ["--min-duration", str(seconds), f"--json={document}", "--html", str(html)]
        if status := subprocess.run([sys.executable, "-m", "hangtag", *arguments]).returncode:
            raise click.ClickException(f"hangtag loadtest ended with status {status}.")
        if out == RESULTS and (chromium := shutil.which("chromium")):
            take_picture(chromium, f"http://{server.http}/", "page.png", (1200, 960))
            take_picture(chromium, html.as_uri(), "report.png", (1280, 1500))
    results.write(out, lines(json.loads(document.read_text())))
    click.echo(f"wrote {out}")


def take_picture(chromium: str, url: str, name: str, size: tuple[int, int], folder: Path = IMAGES) -> None:
    """Take a screenshot of a page in a window of this width and height, when the page no longer changes."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(url)
        page.wait_for_timeout(_SETTLED_MS)
        shot = page.screenshot()
        browser.close()
    # A palette of only the most frequent colours would lack the colour of a small part, such as a short bar.
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = picture.quantize(255, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(folder / name, optimize=True)
    click.echo(f"drew {name}")
