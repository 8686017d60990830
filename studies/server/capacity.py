"""How many replicas carry a load: arithmetic over what `make bench-server` measured, and no figure until it has."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hangtag.protos import inference_pb2
from studies.sections import table

RESULTS = Path("studies/server/results.json")
RATES = (1_000, 10_000, 100_000, 1_000_000)  # calls a second
# Of what a replica can do at most. Waiting grows as 1 / (1 - utilisation): 2.5 at 0.6, but 10 at 0.9.
UTILISATION = 0.6
SPARE = 1  # replicas that may be gone (one that is updated, or died) while the others still carry the load


@dataclass(frozen=True)
class Measured:
    """What one server does with a model at most: calls of one image a second, and images a second in large calls."""

    model: str
    calls_per_second: float
    images_per_second: float
    cpus: int

    def replicas(self, rate: float) -> int:
        """For ``rate`` calls a second of one image each, of servers with ``cpus`` each."""
        return replicas(rate, self.calls_per_second)

    def row(self, rate: float) -> tuple[str, ...]:
        single = self.replicas(rate)
        together = replicas(rate, self.images_per_second)
        gigabits = rate * request_bytes(self.model) * 8 / 1e9
        counts = (f"{count:,}" for count in (single, single * self.cpus, together, together * self.cpus))
        return self.model, f"{rate:,}", *counts, f"{gigabits:.2g} Gbit/s"


def replicas(rate: float, throughput: float) -> int:
    """ceil(rate / (throughput * UTILISATION)) + SPARE"""
    return math.ceil(rate / (throughput * UTILISATION)) + SPARE


def request_bytes(model: str) -> int:
    """A ModelInfer call with one 28 x 28 image, with gRPC's 5 bytes before a message and HTTP/2's 9 before a frame."""
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, 28, 28])
    request = inference_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[bytes(28 * 28)])
    return int(request.ByteSize()) + 5 + 9


def read(document: dict[str, Any]) -> list[Measured]:
    """The medians over the rounds, on the hot path: calls with 64 of them in flight, images in calls of 64.

    Raises ValueError for results of another form.
    """
    try:
        cpus, rounds = int(document["machine"]["cpus"]), [one["hot"] for one in document["rounds"]]

        def median(model: str, load: str, figure: str) -> float:
            return statistics.median(float(one[model][load][figure]) for one in rounds)

        return [
            Measured(model, median(model, "many", "calls_per_s"), median(model, "offline", "samples_per_s"), cpus)
            for model in rounds[0]
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{RESULTS} is not as studies/server/measure.py writes it (machine.cpus, and on the hot path in each of "
            f'the rounds calls_per_s of the load "many" and samples_per_s of "offline"): {error!r}'
        ) from error


def section(root: Path) -> str:
    """The table and its arithmetic; until the benchmark has been run, how to run it."""
    file = root / RESULTS
    if not file.exists():
        return "Not measured yet: `make bench-server`."
    measured = read(json.loads(file.read_text()))
    head = ("model", "images/s", "replicas", "CPUs in all", "replicas, 64 a call", "CPUs in all", "on the network")
    peaks = "\n".join(
        f"- `{one.model}`: {one.calls_per_second:,.0f} calls/s of one image each, "
        f"{one.images_per_second:,.0f} images/s in calls of 64"
        for one in measured
    )
    first, rate = measured[0], RATES[-1]
    formula = f"ceil(rate / (throughput * {UTILISATION})) + {SPARE}"
    example = formula.replace("rate", f"{rate:,}", 1).replace("throughput", f"{first.calls_per_second:,.0f}")
    return f"""`make bench-server` measured on one server with {first.cpus} CPUs ([results](../{RESULTS})):

{peaks}

The load generator had its part of these CPUs: a server that has them to itself does more.

{table(head, [one.row(rate) for one in measured for rate in RATES])}

`replicas = {formula}`, so for `{first.model}` at {rate:,} calls/s of one image
`{example} = {first.replicas(rate):,}`.
{UTILISATION}, because waiting grows as `1 / (1 - utilisation)`; + {SPARE}, because one is updated or lost now and then.
On the network: requests, of 28 by 28 pixels and what the protocol adds, one image a call, without TLS and TCP."""
