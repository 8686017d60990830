"""The README's table of models: a model's accuracy from its own file, a route's and all speeds from the load test."""

from collections.abc import Sequence
from pathlib import Path

from studies import results
from studies.page import table
from studies.shipped import measured, route
from studies.shipped.measured import Measured
from studies.shipped.models import ShippedModel
from studies.shipped.run import RESULTS

_HEAD = ("model", "parameters", "test accuracy", "1 in flight: p50 / p99", "64 in flight: throughput, p99")


def part(shipped: Sequence[ShippedModel], path: Path = RESULTS) -> str:
    """The table, and a paragraph about the source of its figures.

    Raises:
        click.ClickException: a model has no recorded load test, or one of a version with another graph.
    """
    models = measured.read(shipped, path)
    conditions = results.read(path)["conditions"]
    environment = ", ".join(f"{key} {value}" for key, value in conditions["environment"].items())
    accuracy = f"Accuracy comes from the models' files, see [docs/models.md](docs/models.md){_of_the_route(models)}."
    return f"""{table(_HEAD, [_row(model) for model in models], right=4)}

Made by `make docs`. {accuracy} Speed comes from
[studies/shipped/results.jsonl](studies/shipped/results.jsonl), measured {conditions["date"]} by
`{conditions["command"]}` ({environment}){_earlier_versions(models)}."""


def _row(measured: Measured) -> tuple[str, ...]:
    alone, loaded = measured.run("1 in flight"), measured.run("64 in flight")
    return (
        f"`{measured.name}`{measured.title.removeprefix(measured.name)}",
        f"{measured.parameters:,}",
        f"{measured.accuracy:.2%}",
        f"{_ms(alone['latency_s']['p50'])} / {_ms(alone['latency_s']['p99'])}",
        f"{loaded['throughput']:,.0f} calls/s, {_ms(loaded['latency_s']['p99'])}",
    )


def _of_the_route(models: Sequence[Measured]) -> str:
    if all(each.name != route.NAME for each in models):
        return ""
    return (
        f"; `{route.NAME}`, a [route](docs/routes.md), answered all test images through the server, and its speed is "
        "with such images"
    )


def _earlier_versions(models: Sequence[Measured]) -> str:
    earlier = [f"`{each.name}` version {each.earlier_version}" for each in models if each.earlier_version]
    if not earlier:
        return ""
    return f".\nMeasured were {', '.join(earlier)}, whose graphs differ from those above in nothing but the weights"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"
