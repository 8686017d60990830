"""Computes how many replicas carry a load, from the measured throughput of one server."""

import math
import statistics
from dataclasses import dataclass

import click

from hangtag.protos import inference_pb2
from studies.page import table
from studies.server.goals import Measurement
from studies.server.scenarios import MODELS

SYSTEM, IN_CONTAINERS = "native", "grpc"
"""The server of the table, and the one that a container starts where nothing is set: see systems.SYSTEMS."""
RATES = (1_000, 10_000, 100_000, 1_000_000)  # calls a second
UTILISATION = 0.6
"""The share of a replica's throughput to plan with. Waiting grows as 1 / (1 - utilisation): 2.5 at 0.6, 10 at 0.9."""
SPARE = 1
"""Replicas that may be missing, because of an update or a failure, while the others still carry the load."""


@dataclass(frozen=True)
class Measured:
    """A server's throughput with one model: calls of one image a second, and images a second in calls of 64."""

    model: str
    calls_per_second: float
    images_per_second: float
    cpus: int

    def replicas(self, rate: float) -> int:
        """The number of servers for `rate` calls a second of one image each."""
        return replicas(rate, self.calls_per_second)

    def row(self, rate: float) -> tuple[str, ...]:
        """The table's row for `rate` images a second."""
        single = self.replicas(rate)
        together = replicas(rate, self.images_per_second)
        gigabits = rate * request_bytes(self.model) * 8 / 1e9
        counts = (f"{count:,}" for count in (single, single * self.cpus, together, together * self.cpus))
        return self.model, f"{rate:,}", *counts, f"{gigabits:.2g} Gbit/s"


def replicas(rate: float, throughput: float) -> int:
    """ceil(rate / (throughput * UTILISATION)) + SPARE"""
    return math.ceil(rate / (throughput * UTILISATION)) + SPARE


def request_bytes(model: str) -> int:
    """The bytes of a ModelInfer call with one 28 x 28 image: the message, 5 bytes of gRPC and 9 of HTTP/2 before it."""
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, 28, 28])
    request = inference_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[bytes(28 * 28)])
    return int(request.ByteSize()) + 5 + 9


def throughputs(measured: Measurement, system: str = SYSTEM) -> list[Measured]:
    """A system's medians over the rounds: calls of one image with 64 in flight, and images in calls of 64.

    Raises:
        click.ClickException: the measurement lacks one of these figures.
    """
    try:
        cpus, rounds = int(measured["conditions"]["cpus"]), [turn[system] for turn in measured["rounds"]]

        def median(model: str, load: str) -> float:
            return statistics.median(float(turn[model][load]["samples_per_s"]) for turn in rounds)

        return [Measured(model, median(model, "64"), median(model, "batch"), cpus) for model in MODELS]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise click.ClickException(
            "studies/server/results.jsonl lacks what 'python -m studies server run' writes: cpus, and in each round "
            f'samples_per_s of {system} for the loads "64" and "batch" ({error!r}).'
        ) from error


def part(measured: Measurement) -> str:
    """The table of replicas and its arithmetic. Raises click.ClickException, as throughputs."""
    servers = throughputs(measured)
    first, rate = servers[0], RATES[-1]
    head = ("model", "images/s", "replicas", "CPUs in all", "replicas, 64 a call", "CPUs in all", "on the network")
    peaks = "\n".join(
        f"- `{server.model}`: {server.calls_per_second:,.0f} calls/s of one image each, "
        f"{server.images_per_second:,.0f} images/s in calls of 64"
        for server in servers
    )
    in_containers = " and ".join(
        f"{server.calls_per_second:,.0f} (`{server.model}`)" for server in throughputs(measured, IN_CONTAINERS)
    )
    formula = f"ceil(rate / (throughput * {UTILISATION})) + {SPARE}"
    example = formula.replace("rate", f"{rate:,}", 1).replace("throughput", f"{first.calls_per_second:,.0f}")
    return f"""Made by `make docs` from [studies/server/results.jsonl](../studies/server/results.jsonl).
`python -m studies server run` measured on one server with {first.cpus} CPUs:

{peaks}

The load generator used a part of these CPUs, so a server that has them for itself reaches more. These are figures
of the native transport. A server in a container listens on all addresses, where `--transport auto` takes
`{IN_CONTAINERS}`, which answered {in_containers} calls/s of one image: set `HANGTAG_SERVE_TRANSPORT=native` behind a
proxy, or put these figures into the formula.

{table(head, [server.row(rate) for server in servers for rate in RATES])}

`replicas = {formula}`, so for `{first.model}` at {rate:,} calls/s of one image
`{example} = {first.replicas(rate):,}`.
The factor {UTILISATION} is there because waiting grows as `1 / (1 - utilisation)`; {SPARE} is added because now and
then a replica is updated or lost. The column "on the network" counts requests of 28 by 28 pixels with the protocol's
overhead, one image a call, without TLS and TCP."""
