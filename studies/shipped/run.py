"""Load-tests the shipped models and the route over them on a server of this machine, with all test images.

It records throughput and latency of each, and how many of the test images each has right.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from PIL import Image

from studies import pictures, results, training_runs
from studies.page import ROOT
from studies.server.process import hangtag_serve, served
from studies.shipped import route

RESULTS = Path(__file__).with_name("results.jsonl")
MODELS = ("lstm", "lstm2", "cnn")
PRECISIONS = ("lstm-int8", "lstm2-int8", "cnn-int8")
DATASET = Path("/usr/share/datasets/fashion-mnist")
ACCURACY = "accuracy"
LATENCIES = ("p50", "p90", "p95", "p99")
ENVIRONMENT = ("CPU", "CPUs usable", "Python", "hangtag", "grpcio")


def lines(document: Mapping[str, Any], definition: Mapping[str, Any]) -> Iterator[results.Line]:
    """The lines of a document of `hangtag loadtest --json`: the conditions, the accuracies, then one of each run.

    Args:
        document: The load test's.
        definition: What the route answered by (see route.definition).
    """
    yield {
        "run": "conditions",
        "command": "python -m studies shipped run",
        "date": document["started"][:10],
        "valid": document["valid"],
        "environment": {key: document["environment"][key] for key in ENVIRONMENT},
    }
    versions = {target["name"]: target["answering_version"] for target in document["targets"]}
    for target in document["targets"]:
        measured = target["accuracy"]
        yield {
            "run": f"{target['name']}, {ACCURACY}",
            "model": target["name"],
            "version": versions[target["name"]],
            "accuracy": measured["accuracy"],
            "images": measured["total"],
            **({"route": definition} if target["name"] == route.NAME else {}),
        }
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
@click.option("--seconds", default=6, show_default=True, help="At least, for each run.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(seconds: int, out: Path) -> None:
    """Load-test every shipped model and the route over them on this machine, which should do nothing else.

    The test images come from Debian's package dataset-fashion-mnist. Every target answers each of them once; the load
    has 256 of them, drawn at random.

    Where Chromium is installed, docs/images/report.png is taken anew from the load test's report, unless --out names
    another file than the page's.
    """
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    document, html = reports / "shipped.json", reports / "shipped.html"
    if not DATASET.is_dir():
        raise click.ClickException(f"{DATASET} is missing: 'apt-get install dataset-fashion-mnist' brings it.")
    models = ROOT / "models"
    with served(hangtag_serve(models, "--transport", "native")) as server:
        arguments = ["loadtest", *MODELS, *PRECISIONS, route.NAME, "--server", server.address]
        arguments += ["--samples", str(DATASET), "--accuracy"]
        arguments += ["--min-duration", str(seconds), "--json", str(document), "--html", str(html)]
        training_runs.hangtag(arguments)
    results.write(out, lines(json.loads(document.read_text()), route.definition(models)))
    click.echo(f"wrote {out}")
    if out == RESULTS and (chromium := shutil.which("chromium")):
        file = pictures.FOLDER / "report.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--window-size=1280,1500", f"--screenshot={file}", html.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        pictures.few_colours(Image.open(file).convert("RGB"), 128).save(file, optimize=True)
        click.echo(f"drew {file.name}")
