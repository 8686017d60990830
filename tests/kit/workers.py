"""`hangtag serve --workers 2`, calls of both workers and what they report."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hangtag.protos import inference_pb2_grpc
from tests.kit.command import Serving, serving
from tests.kit.live import index, outputs, request
from tests.kit.waiting import TIMEOUT

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
TRANSPORTS = pytest.mark.parametrize("transport", ["native", "grpc"])
Stub = inference_pb2_grpc.GRPCInferenceServiceStub


@contextmanager
def two_workers(models: Path, *options: str, first: str = "") -> Iterator[Serving]:
    with serving("--models", str(models), "--port", "0", "--workers", "2", *options, first=first) as server:
        server.wait_until_ready()
        yield server


@contextmanager
def connections(server: Serving, count: int) -> Iterator[list[Stub]]:
    """Stubs with a connection each, so that the kernel spreads them over the workers."""
    with ExitStack() as stack:
        address = server.wait_until_ready()
        yield [Stub(stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))) for _ in range(count)]


def pids(server: Serving) -> list[int]:
    """The process ids of the workers that listened, the earliest first."""
    lines = [line for line in list(server.log) if 'event="worker listens"' in line]
    return [int(re.findall(r"pid=(\d+)", line)[0]) for line in lines]


def ask(stub: Stub) -> float:
    answer = outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT, wait_for_ready=True))
    return float(answer["value"].item())


def metrics(text: str) -> dict[str, float]:
    """Of a server's metrics those of the workers, the transport and the inferences, by name."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("hangtag_worker", "nv_inference_count", "hangtag_transport"))
    }


def stop(server: Serving) -> None:
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, "".join(server.log)
    assert not any("Traceback" in line for line in server.log)
