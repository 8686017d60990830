"""Reads the recorded load test of the shipped models, for the table of the models and for a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studies import results
from studies.page import table
from studies.shipped.models import accuracy, parameters, read
from studies.shipped.run import ACCURACY, RESULTS, ROUTE

_HEAD = ("model", "parameters", "test accuracy", "1 in flight: p50 / p99", "64 in flight: throughput, p99")
MEMBERS = ("cnn-small-int8", "cnn-int8")


@dataclass(frozen=True)
class Measured:
    """A shipped model or the shipped route, with its accuracy and its speed.

    Attributes:
        name: The name of the model or the route.
        version: The measured version of the model; empty for the route.
        parameters: The number of parameters; for the route, the sum over its members.
        accuracy: The accuracy on the test images, from 0 to 1. A model's accuracy comes from its file, and the route's
            from the load test.
        runs: The load test's results for this model or route, by the name of the load,
            such as "64 in flight" or "430 calls/s".
    """

    name: str
    version: str
    parameters: int
    accuracy: float
    runs: Mapping[str, results.Line]

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name


def measured(path: Path = RESULTS) -> list[Measured]:
    """Return the results of the load test, beginning with the smallest model."""
    lines = [line for line in results.read(path).values() if "model" in line]
    files = {(model.name, str(model.version)): model for model in read()}
    every = []
    for name, version in dict.fromkeys((line["model"], line["version"]) for line in lines):
        runs = {line["run"].removeprefix(f"{name}, "): line for line in lines if line["model"] == name}
        answered = runs.pop(ACCURACY)
        if name == ROUTE:
            members = {line["model"]: line["version"] for line in lines if line["model"] in MEMBERS}
            total = sum(parameters(files[member]) for member in members.items())
            every.append(Measured(name, "", total, answered["accuracy"], runs))
        else:
            file = files[name, version]
            every.append(Measured(name, version, parameters(file), accuracy(file), runs))
    return sorted(every, key=lambda each: each.parameters)


def part(path: Path = RESULTS) -> str:
    """Return the table, and a paragraph that says where its figures come from."""
    conditions = results.read(path)["conditions"]
    environment = ", ".join(f"{key} {value}" for key, value in conditions["environment"].items())
    return f"""{table(_HEAD, [_row(each) for each in measured(path)], right=4)}

The accuracies on Fashion-MNIST are recorded in [the models' files](/studies/shipped/README.md). For the \
[route](/docs/reference/routes.md) `{ROUTE}`, accuracy was measured by sending all test images to the \
server. The speeds come from
[studies/shipped/results.jsonl](/studies/shipped/results.jsonl), and were measured with 256 test images on \
{conditions["date"]} by
`{conditions["command"]}` ({environment})."""


def _row(measured: Measured) -> tuple[str, ...]:
    alone, loaded = measured.runs["1 in flight"], measured.runs["64 in flight"]
    return (
        f"`{measured.name}`{measured.title.removeprefix(measured.name)}",
        f"{measured.parameters:,}",
        f"{measured.accuracy:.2%}",
        f"{_ms(alone['latency_s']['p50'])} / {_ms(alone['latency_s']['p99'])}",
        f"{loaded['throughput']:,.0f} calls/s, {_ms(loaded['latency_s']['p99'])}",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.1f} ms"
