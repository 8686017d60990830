"""Put load on a server with nghttp2's h2load, a native program that sends a ModelInfer message over HTTP/2.

h2load needs little processor time, so the server is the bottleneck.
"""

import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from hangtag.protos import inference_pb2 as pb

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HEADERS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Load:
    """A closed loop, or calls at a fixed rate.

    Args:
        calls: The number of calls.
        clients: The number of connections.
        streams: The maximum number of calls in flight on each connection.
        samples: The number of images in a call.
        rate: Calls a second, on all connections together; None for a closed loop.
        deadline: Each call's deadline in seconds. After the deadline, the server ends the call, but h2load does not.
    """

    calls: int
    clients: int = 1
    streams: int = 1
    samples: int = 1
    rate: float | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The rate in calls a second, and each call's latency in seconds. Refused calls count, too."""

    per_second: float
    latencies: Sequence[float]

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) * 1e3


def version() -> str:
    """Return the version of h2load. Raises click.ClickException if h2load is missing."""
    if shutil.which("h2load") is None:
        raise click.ClickException("h2load is missing. Debian and Ubuntu have it in the package nghttp2-client.")
    output = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout
    return output.strip().removeprefix("h2load ")


def message(model: str, samples: int) -> bytes:
    """Return the HTTP/2 body of a call: gRPC's length prefix, and a ModelInfer message with random images."""
    images = np.random.default_rng(0).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=images.shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[images.tobytes()])
    data = request.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def run(server: str, model: str, load: Load) -> Outcome:
    """Put a load on a server, http://host:port or https://host:port. The server's certificate is not checked.

    Raises:
        click.ClickException: a call got no answer at all.
    """
    headers = list(_HEADERS)
    if load.deadline is not None:
        headers.append(f"grpc-timeout: {round(load.deadline * 1e3)}m")
    return post(f"{server}{_METHOD}", message(model, load.samples), headers, load)


def post(url: str, body: bytes, headers: Sequence[str], load: Load, *options: str) -> Outcome:
    """Put a load of POST requests on a URL.

    Args:
        url: http://host:port/path or https://host:port/path. The certificate is not checked.
        body: The body of each request.
        headers: The headers of each request, each as "name: value".
        load: The load. Its deadline is ignored: state the deadline in a header instead.
        options: Further options of h2load, such as ``--h1`` for HTTP/1.1.

    Raises:
        click.ClickException: a request got no answer, or a status outside 200 to 399.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, log = folder / "body", folder / "log"
        data.write_bytes(body)
        command = ["h2load", "-t", "1", "-c", str(load.clients), "-m", str(load.streams), "-d", str(data), *options]
        for header in headers:
            command += ["-H", header]
        if load.rate is not None:
            command += ["--rps", str(max(1, round(load.rate / load.clients)))]
        command += ["-n", str(load.calls), url, f"--log-file={log}"]
        finished = subprocess.run(command, capture_output=True, text=True)
        return _read(finished.stdout + finished.stderr, log)


def _read(output: str, log: Path) -> Outcome:
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    counts = re.search(r"(\d+) total, \d+ started, (\d+) done, (\d+) succeeded", output)
    complete = counts and counts[1] == counts[2] == counts[3]
    if not (rate and complete):
        raise click.ClickException(f"not every call of h2load was answered:\n{output}")
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2)  # the columns: start in µs, HTTP status, duration in µs
    return Outcome(float(rate[1]), (rows[:, 2] / 1e6).tolist())
