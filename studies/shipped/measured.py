"""The recorded load test of the shipped models, from which the README's table and picture are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import onnx

from hangtag.export.file import onnx_model
from studies import results
from studies.page import ROOT
from studies.shipped.models import ShippedModel
from studies.shipped.run import RESULTS

REPOSITORY = ROOT / "models"


@dataclass(frozen=True)
class Measured:
    """A shipped model, and the version of it whose speed was measured, which has the same graph.

    Attributes:
        model: The version that ships, with its accuracy.
        version: The version that the load test measured.
        runs: The load test's lines for this model by load, such as "64 in flight" or "430 calls/s".
    """

    model: ShippedModel
    version: int
    runs: Mapping[str, results.Line]

    def run(self, load: str) -> results.Line:
        """The line of a load. Raises click.ClickException where none is recorded."""
        if load not in self.runs:
            raise click.ClickException(
                f"no load test of {self.model.name} with {load} is recorded; 'python -m studies shipped run' runs all."
            )
        return self.runs[load]


def read(shipped: Sequence[ShippedModel], path: Path = RESULTS, repository: Path = REPOSITORY) -> list[Measured]:
    """Join the models that ship with the recorded load test.

    Raises:
        click.ClickException: a model has no recorded load test, or one of a version with another graph, whose speed
            says nothing about the version that ships.
    """
    lines = [line for line in results.read(path).values() if "model" in line]
    return [_measured(model, [line for line in lines if line["model"] == model.name], repository) for model in shipped]


def _measured(model: ShippedModel, lines: Sequence[results.Line], repository: Path) -> Measured:
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
                "another graph; 'python -m studies shipped run' measures it."
            )
    return Measured(model, version, {line["run"].removeprefix(f"{model.name}, "): line for line in lines})


def _graph_without_weights(file: Path) -> tuple[object, object]:
    """Operators with their attributes, in order, and the shapes and types of the weights."""
    graph = onnx.load(file).graph
    operators: list[object] = [
        (node.op_type, [a.SerializeToString(deterministic=True) for a in node.attribute if not a.HasField("t")])
        for node in onnx_model.nodes(graph)
    ]
    return operators, sorted((tuple(weight.dims), weight.data_type) for weight in graph.initializer)
