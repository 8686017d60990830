"""The recorded load test of what ships, from which the README's table and picture are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import onnx

from hangtag.export.file import onnx_model
from studies import results
from studies.page import ROOT
from studies.shipped import route
from studies.shipped.models import ShippedModel
from studies.shipped.run import ACCURACY, RESULTS

REPOSITORY = ROOT / "models"
TEST_SET_SIZE = 10_000
_AGAIN = "'python -m studies shipped run' measures it."


@dataclass(frozen=True)
class Measured:
    """A model or a route that ships, with its accuracy and its speed.

    Attributes:
        name: The model's or the route's.
        title: The name, and of a model the version that ships.
        parameters: Of a route, those of its members together.
        accuracy: On the test set, 0 to 1: of a model from its own file, of a route as the load test found it through
            the server.
        runs: The load test's lines for this name by load, such as "64 in flight" or "430 calls/s".
        earlier_version: The version whose speed was measured, where that is not the one that ships; its graph is the
            same.
    """

    name: str
    title: str
    parameters: int
    accuracy: float
    runs: Mapping[str, results.Line]
    earlier_version: int | None = None

    def run(self, load: str) -> results.Line:
        """The line of a load. Raises click.ClickException where none is recorded."""
        if load not in self.runs:
            raise click.ClickException(
                f"no load test of {self.name} with {load} is recorded; 'python -m studies shipped run' runs all."
            )
        return self.runs[load]


def read(shipped: Sequence[ShippedModel], path: Path = RESULTS, repository: Path = REPOSITORY) -> list[Measured]:
    """Join the models that ship, and the route where it was measured, with the recorded load test; smallest first.

    Raises:
        click.ClickException: a model has no recorded load test, or one of a version with another graph, or the route
            was measured with other settings or members: such a speed says nothing about what ships.
    """
    lines = [line for line in results.read(path).values() if "model" in line]
    measured = [_model(model, [line for line in lines if line["model"] == model.name], repository) for model in shipped]
    if of_route := [line for line in lines if line["model"] == route.NAME]:
        measured.append(_route(of_route, shipped, repository))
    return sorted(measured, key=lambda each: each.parameters)


def _model(model: ShippedModel, lines: Sequence[results.Line], repository: Path) -> Measured:
    if not lines:
        raise click.ClickException(
            f"no load test of {model.name} is recorded; 'python -m studies shipped run' runs all."
        )
    version = int(lines[0]["version"])
    if version != model.version:
        files = [repository / model.name / str(number) / "model.onnx" for number in (version, model.version)]
        before, now = (_graph_without_weights(file) for file in files)
        if before != now:
            raise click.ClickException(
                f"version {version} of {model.name} was load-tested, and version {model.version}, which ships, has "
                f"another graph; {_AGAIN}"
            )
    return Measured(
        model.name,
        f"{model.name} version {model.version}",
        int(model.metadata["parameters"]),
        float(model.metadata["test_accuracy"]),
        _by_load(model.name, lines),
        version if version != model.version else None,
    )


def _route(lines: Sequence[results.Line], shipped: Sequence[ShippedModel], repository: Path) -> Measured:
    (accuracy,) = [line for line in lines if line["run"] == f"{route.NAME}, {ACCURACY}"] or [{}]
    if accuracy.get("images") != TEST_SET_SIZE:
        raise click.ClickException(f"the accuracy of {route.NAME} on the whole test set is not recorded; {_AGAIN}")
    now: dict[str, Any] = route.definition(repository)
    if accuracy["route"] != now:
        raise click.ClickException(f"{route.NAME} was measured as {accuracy['route']} and is {now}; {_AGAIN}")
    members = {member.partition("@")[0] for member in now["versions"]}
    parameters = sum(int(model.metadata["parameters"]) for model in shipped if model.name in members)
    return Measured(route.NAME, route.NAME, parameters, accuracy["accuracy"], _by_load(route.NAME, lines))


def _by_load(name: str, lines: Sequence[results.Line]) -> dict[str, results.Line]:
    return {load: line for line in lines if (load := line["run"].removeprefix(f"{name}, ")) != ACCURACY}


def _graph_without_weights(file: Path) -> tuple[object, object]:
    """Operators with their attributes, in order, and the shapes and types of the weights."""
    graph = onnx.load(file).graph
    operators: list[object] = [
        (node.op_type, [a.SerializeToString(deterministic=True) for a in node.attribute if not a.HasField("t")])
        for node in onnx_model.nodes(graph)
    ]
    return operators, sorted((tuple(weight.dims), weight.data_type) for weight in graph.initializer)
