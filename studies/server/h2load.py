"""Load from nghttp2's h2load: real HTTP/2 in native code, a ModelInfer message as its body."""

import re
import shutil
import statistics
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
    """How calls come: each follows an answer. clients: connections; streams: calls in flight on each."""

    calls: int
    clients: int = 1
    streams: int = 1
    samples: int = 1


@dataclass(frozen=True)
class Outcome:
    """Of all calls, answered or refused: how many a second, and starts and latencies in seconds, by start."""

    per_second: float
    latencies: Sequence[float]
    starts: Sequence[float]

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) * 1e3

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies) * 1e3


def version() -> str:
    """Raises click.ClickException where h2load is missing."""
    if shutil.which("h2load") is None:
        raise click.ClickException("h2load is missing; Debian and Ubuntu have it in the package nghttp2-client")
    told = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout
    return told.strip().removeprefix("h2load ")


def message(model: str, samples: int) -> bytes:
    """A call's whole HTTP/2 body: gRPC's prefix (not compressed, length) and random pictures."""
    images = np.random.default_rng(0).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=images.shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[images.tobytes()])
    data = request.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def run(address: str, model: str, load: Load) -> Outcome:
    """Raises click.ClickException when a call got no answer at all."""
    url = f"http://{address}{_METHOD}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body, log = folder / "body", folder / "log"
        body.write_bytes(message(model, load.samples))
        command = ["h2load", "-t", "1", "-c", str(load.clients), "-m", str(load.streams), "-d", str(body)]
        for header in _HEADERS:
            command += ["-H", header]
        command += ["-n", str(load.calls), url, f"--log-file={log}"]
        done = subprocess.run(command, capture_output=True, text=True)
        return _read(done.stdout + done.stderr, log)


def _read(told: str, log: Path) -> Outcome:
    finished = re.search(r"finished in .*?, ([\d.]+) req/s", told)
    counts = re.search(r"(\d+) total, \d+ started, (\d+) done, (\d+) succeeded", told)
    complete = counts and counts[1] == counts[2] == counts[3]
    if not (finished and complete):
        raise click.ClickException(f"h2load's calls were not all answered:\n{told}")
    rows = np.loadtxt(log, dtype=np.int64, ndmin=2)  # start in µs, HTTP status, duration in µs
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    starts = (rows[:, 0] - rows[0, 0]) / 1e6
    return Outcome(float(finished[1]), (rows[:, 2] / 1e6).tolist(), starts.tolist())
