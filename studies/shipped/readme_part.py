"""The README's table of models: accuracy from the models' own files, speed from the recorded load test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from studies import results
from studies.page import table
from studies.shipped.models import ShippedModel
from studies.shipped.run import RESULTS

_HEAD = ("model", "parameters", "test accuracy", "1 in flight: p50 / p99", "64 in flight: throughput, p99")


def part(shipped: Sequence[ShippedModel], path: Path = RESULTS) -> str:
    """The table, and a paragraph about the source of its figures.

    Raises:
        click.ClickException: a model has no recorded load test.
    """
    lines = results.read(path)
    environment = ", ".join(f"{key} {value}" for key, value in lines["conditions"]["environment"].items())
    return f"""{table(_HEAD, [_row(model, lines) for model in shipped], right=4)}

Made by `make docs`. Accuracy comes from the models' files, see [docs/models.md](docs/models.md). Speed comes from
[studies/shipped/results.jsonl](studies/shipped/results.jsonl), measured {lines["conditions"]["date"]} by
`{lines["conditions"]["command"]}` ({environment})."""


def _row(model: ShippedModel, lines: Mapping[str, results.Line]) -> tuple[str, ...]:
    alone, loaded = (_line(lines, model.name, concurrency) for concurrency in (1, 64))
    return (
        f"`{model.name}`",
        f"{int(model.metadata['parameters']):,}",
        f"{float(model.metadata['test_accuracy']):.2%}",
        f"{_ms(alone['latency_s']['p50'])} / {_ms(alone['latency_s']['p99'])}",
        f"{loaded['throughput']:,.0f} calls/s, {_ms(loaded['latency_s']['p99'])}",
    )


def _line(lines: Mapping[str, results.Line], model: str, concurrency: int) -> results.Line:
    name = f"{model}, {concurrency} in flight"
    if name not in lines:
        raise click.ClickException(
            f"no load test of {model} with {concurrency} in flight is recorded; 'python -m studies shipped run' "
            "runs them all."
        )
    return lines[name]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"
