"""The README's table of models: accuracy from the models' own files, speed from a saved load test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.shipped.models import ShippedModel

BEGIN, END = "<!-- figures: models -->", "<!-- /figures -->"


def write(readme: Path, shipped: Sequence[ShippedModel], loadtest: Path) -> None:
    """Replace what stands between the two markers. Raises ValueError when the README lacks them."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the markers {BEGIN} and {END}")
    readme.write_text(
        "\n".join([before + BEGIN, "", *table(shipped, json.loads(loadtest.read_text())), "", END + after])
    )


def table(shipped: Sequence[ShippedModel], results: dict[str, Any]) -> list[str]:
    """The table and where its figures come from, as lines of Markdown.

    Raises ValueError for a model that was not load-tested.
    """
    lines = [
        "| model | parameters | test accuracy | 1 in flight: p50 / p99 | 64 in flight: throughput, p99 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for model in shipped:
        alone, loaded = (_run(results, model.name, concurrency) for concurrency in (1, 64))
        lines.append(
            f"| `{model.name}` "
            f"| {int(model.metadata['parameters']):,} "
            f"| {float(model.metadata['test_accuracy']):.2%} "
            f"| {_ms(alone['latency']['p50'])} / {_ms(alone['latency']['p99'])} "
            f"| {loaded['throughput']:,.0f} calls/s, {_ms(loaded['latency']['p99'])} |"
        )
    told = ("CPU", "CPUs usable", "Python", "hangtag", "grpcio")
    machine = ", ".join(f"{key} {results['environment'][key]}" for key in told)
    return [
        *lines,
        "",
        f"Accuracy: `hangtag train` and `hangtag export`, see [docs/models.md](docs/models.md). Speed: `make figures`, "
        f"measured {results['started'][:10]} ({machine}); every result is in "
        "[docs/figures/loadtest.json](docs/figures/loadtest.json).",
    ]


def _run(results: dict[str, Any], model: str, concurrency: int) -> dict[str, Any]:
    for run in results["runs"]:
        if run["model"] == model and run["load"]["concurrency"] == concurrency:
            total: dict[str, Any] = run["total"]
            return total
    raise ValueError(f"no load test of {model} with {concurrency} in flight is saved; 'make figures' runs them all")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"
