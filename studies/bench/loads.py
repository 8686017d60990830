"""Functions that put a load on a server and return the measured figures."""

import bisect
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from studies.bench import h2load
from studies.bench.h2load import Load, Outcome
from studies.bench.process import Launch, Served, served

Figures = dict[str, Any]
Send = Callable[[Load], Outcome]
"""Puts a load on a server."""

SAMPLES = 64
CONNECTIONS = 16
CLOSED_LOOPS: Mapping[str, str] = {str(number): f"{number} in flight" for number in (1, 4, 16, 64)} | {
    "batch": f"2 in flight, {SAMPLES} samples each"
}
"""The loads, with descriptions. A call has one image, except in `batch`."""
LOADS: Mapping[str, str] = {
    **CLOSED_LOOPS,
    "poisson": "Poisson arrivals",
    "overload": "10 x overload",
    "start": "start with every model",
}

DEADLINE = 0.5
OVERLOAD = 10
OVERLOAD_STREAMS = 100  # more calls are in flight than the server can queue and compute
BOUND_MS = 15.0  # MLPerf's limit for the 99th percentile of ResNet-50 in the server scenario
SHARES = tuple(percent / 100 for percent in range(20, 100, 5))


def over_grpc(server: Served, model: str) -> Send:
    """Return a function that sends ModelInfer calls."""
    return lambda load: h2load.run(server.url, model, load)


def closed_loop(name: str) -> Load:
    """Return the closed loop with this name. The caller sets the number of calls."""
    if name == "batch":
        return Load(1, clients=2, samples=SAMPLES)
    number = int(name)
    clients = min(number, CONNECTIONS)
    return Load(1, clients, number // clients)


def closed(server: Served, send: Send, shape: Load, seconds: float, model: str | None = None) -> Figures:
    """Measure the throughput and the latency in a closed loop.

    Args:
        server: The server.
        send: Puts the load on the server.
        shape: The load whose number of calls the function computes.
        seconds: The approximate duration, from which the number of calls is computed.
        model: The called model, if the calls use gRPC. The function compares the number of calls with the server's
            statistics, because h2load counts refused calls as successes: their HTTP status is 200.

    Raises:
        click.ClickException: A call was not answered.
    """
    load = replace(shape, calls=8 + 200 // shape.samples)
    per_second = send(load).per_second  # The number of calls is computed from the warm-up's rate.
    load = replace(shape, calls=max(load.calls, round(per_second * seconds)))
    before = server.answered(model) if model else 0
    outcome = send(load)
    # The difference may include calls of the warm-up that the server had not counted when the first count was read.
    if model and (answered := server.answered(model) - before) < load.calls:
        raise click.ClickException(f"{answered} of {load.calls} calls for {model} were answered")
    return {
        "samples_per_s": outcome.per_second * load.samples,
        "p50_ms": outcome.percentile_ms(50),
        "p99_ms": outcome.percentile_ms(99),
    }


def start(launch: Launch) -> Figures:
    """Measure a server's start time and PSS. No other server may run, because PSS divides memory that servers share."""
    with served(launch) as server:
        return {"seconds_to_ready": server.seconds_to_ready, "pss_mb": server.pss_mb()}


def highest_rate(server: Served, model: str, bare: float, seconds: float) -> Figures:
    """Find the highest request rate, as a share of bare ONNX Runtime's rate, at which the server answers every call and
    p99 is at most BOUND_MS.

    `hangtag loadtest` sends the calls, with Poisson arrivals, and measures latency from the planned time. h2load is not
    suitable, because its timer accumulates delays, and because it measures latency from the actual sending. The search
    is binary, because a server that succeeds at one share should succeed at every smaller share.
    """

    def misses(share: float) -> bool:
        options = ["--rate", f"{share * bare:.1f}", "--seed", str(round(share * 1000))]
        options += ["--channels", str(CONNECTIONS), "--processes", "1"]
        options += ["--tls-ca", str(server.ca)] if server.ca else []
        total = loadtest(server.address, [model], seconds, *options)["runs"][0]["total"]
        p99_ms = total["latency"]["p99"] * 1e3 if total["latency"]["count"] else math.inf
        return bool(p99_ms > BOUND_MS or total["statuses"].get("OK", 0) < total["queries"])

    count = bisect.bisect_left(SHARES, True, key=misses)
    return {"share": SHARES[count - 1] if count else 0.0}


def loadtest(address: str, models: list[str], seconds: float, *options: str) -> dict[str, Any]:
    """Run `hangtag loadtest` with a single block, and return its JSON.

    Args:
        address: The server's address.
        models: The models to measure.
        seconds: The minimum duration.
        options: Further options of the command.

    Raises:
        click.ClickException: The load test wrote no results.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, "-m", "hangtag", "loadtest", *models, "--server", address, *options]
        command += [f"--json={out}", "--min-duration", f"{seconds}s", "--blocks", "1"]
        finished = subprocess.run(command, capture_output=True, text=True)  # the status is 1 if calls were refused
        if not out.exists():
            raise click.ClickException(f"the load test wrote no results:\n{finished.stdout}{finished.stderr}")
        document: dict[str, Any] = json.loads(out.read_text())
        return document


def overload(launch: Launch, model: str, seconds: float) -> Figures:
    """Overload the server twice, with ten times its capacity, and measure the second overload. Each call has a
    deadline.

    h2load counts refused calls as successes, so the number of answered calls comes from the server's statistics. Some
    calls end after their deadline, and it is unknown how many of these were answered. The function counts all such
    calls as answered late, so the returned share of calls answered in time is a lower bound.

    Returns:
        Four figures: the capacity with 64 calls in flight, the rate of calls answered in time as a share of this
        capacity, the largest growth of memory (RSS), and the growth that remained after the load.
    """
    with served(launch) as server:
        send = over_grpc(server, model)
        capacity = closed(server, send, closed_loop("64"), seconds, model)["samples_per_s"]
        rate = OVERLOAD * capacity
        load = Load(round(rate * seconds), CONNECTIONS, OVERLOAD_STREAMS, rate=rate, deadline=DEADLINE)
        # In the first overload, ONNX Runtime allocates memory for batches of the maximum size, and keeps it.
        send(load)
        server.forget_peak()
        memory, answered = server.resident_mb(), server.answered(model)
        run = send(load)
        in_time = server.answered(model) - answered - sum(latency > DEADLINE for latency in run.latencies)
        return {
            "capacity_per_s": capacity,
            "in_time_share": max(0, in_time) / (load.calls / run.per_second) / capacity,
            "gained_mb": max(0.0, server.peak_mb() - memory),
            "kept_mb": max(0.0, server.resident_mb() - memory),
        }
