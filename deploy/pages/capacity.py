"""How many replicas carry a load: arithmetic over what `make bench-server` measured, and no figure until it has."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.pages.sections import table
from protos import inference_pb2

RESULTS = Path("benchmarks/server/results.json")
RATES = (1_000, 10_000, 100_000, 1_000_000)  # calls a second
# Of what a replica can do at most. Waiting grows as 1 / (1 - utilisation): 2.5 at 0.6, but 10 at 0.9.
UTILISATION = 0.6
SPARE = 1  # replicas that may be gone (one that is updated, or died) while the others still carry the load


@dataclass(frozen=True)
class Measured:
    """One model's highest throughput on one server. calls_per_second: of calls with one image each."""

    model: str
    calls_per_second: float
    cpus: int

    def replicas(self, rate: float) -> int:
        """ceil(rate / (throughput * UTILISATION)) + SPARE, of servers with ``cpus`` each."""
        return math.ceil(rate / (self.calls_per_second * UTILISATION)) + SPARE

    def row(self, rate: float) -> tuple[str, ...]:
        replicas = self.replicas(rate)
        gigabits = rate * request_bytes(self.model) * 8 / 1e9
        return self.model, f"{rate:,}", f"{replicas:,}", f"{replicas * self.cpus:,}", f"{gigabits:.2g} Gbit/s"


def request_bytes(model: str) -> int:
    """A ModelInfer call with one 28 x 28 image, with gRPC's 5 bytes before a message and HTTP/2's 9 before a frame."""
    tensor = inference_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[1, 28, 28])
    request = inference_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[bytes(28 * 28)])
    return int(request.ByteSize()) + 5 + 9


def read(document: dict[str, Any]) -> list[Measured]:
    """The median over the rounds of each model's calls a second with 64 in flight, on the hot path.

    Raises ValueError for results of another form.
    """
    try:
        cpus, rounds = int(document["machine"]["cpus"]), [one["hot"] for one in document["rounds"]]
        return [
            Measured(model, statistics.median(float(one[model]["many"]["calls_per_s"]) for one in rounds), cpus)
            for model in rounds[0]
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{RESULTS} is not as benchmarks/server/measure.py writes it (machine.cpus, and calls_per_s of the load "
            f'"many" on the hot path in each of the rounds): {error!r}'
        ) from error


def section(root: Path) -> str:
    """The table and its arithmetic; until the benchmark has been run, how to run it."""
    file = root / RESULTS
    if not file.exists():
        return "Not measured yet: `make bench-server`."
    measured = read(json.loads(file.read_text()))
    head = ("model", "calls/s", "replicas", "CPUs in all", "requests on the network")
    peaks = ", ".join(f"`{one.model}` {one.calls_per_second:,.0f} calls/s on {one.cpus} CPUs" for one in measured)
    first, rate = measured[0], RATES[2]
    formula = f"ceil(rate / (throughput * {UTILISATION})) + {SPARE}"
    example = formula.replace("rate", f"{rate:,}", 1).replace("throughput", f"{first.calls_per_second:,.0f}")
    return f"""Measured by `make bench-server` ([results](../{RESULTS})): {peaks}.

{table(head, [one.row(rate) for one in measured for rate in RATES])}

`replicas = {formula}`, so for `{first.model}` at {rate:,} calls/s `{example} = {first.replicas(rate):,}`.
{UTILISATION}, because waiting grows as `1 / (1 - utilisation)`; + {SPARE}, because one is updated or lost now and then.
Requests on the network: of one 28 by 28 image each, without TLS and TCP."""
