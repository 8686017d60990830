"""Starts servers with two workers, by `hangtag serve` or by a supervisor in this process, and calls both workers."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog.testing
from prometheus_client.parser import text_string_to_metric_families

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.supervisor import Supervisor
from studies.stubs import InferenceStub
from tests.kit.command import Serving, serving
from tests.kit.live import index, outputs, request
from tests.kit.over_http import HTTP
from tests.kit.rest import Rest
from tests.kit.waiting import TIMEOUT

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
Stub = InferenceStub
QUICK_CHECKS = Limits(worker_check_seconds=0.05, worker_answer_seconds=0.2, worker_restart_seconds=0.001)


@contextmanager
def two_workers(models: Path, *options: str, first: str = "") -> Iterator[Serving]:
    with serving("--models", str(models), "--port", "0", "--workers", "2", *options, first=first) as server:
        server.wait_for("ready")
        yield server


@contextmanager
def connections(server: Serving, count: int) -> Iterator[list[Stub]]:
    """Stubs whose connections are separate, so that the kernel distributes them to the workers."""
    with ExitStack() as stack:
        address = server.address
        yield [Stub(stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))) for _ in range(count)]


@contextmanager
def asking(server: Serving, transport: str) -> Iterator[Callable[[], float]]:
    """Yield a function that calls the model ``gather`` over a separate connection and returns its answer, 20."""
    if transport == HTTP:
        with Rest(server.http_address) as rest:
            yield lambda: float(rest.infer(request("gather", index=index(2))).outputs["value"].item())
    else:
        with connections(server, 1) as (stub,):
            yield lambda: ask(stub)


def supervisor(models: Path, **settings: Any) -> Supervisor:
    """Create a supervisor of two workers that serve gather over gRPC on a free port. Do not start it.

    Args:
        models: The model repository.
        settings: Settings of ServerConfig that replace the defaults of this function.
    """
    defaults: dict[str, Any] = {"load_model": ("gather",), "model_control": "explicit", "limits": QUICK_CHECKS}
    return Supervisor(ServerConfig(models=models, port=0, http_port=-1, **{"workers": 2, **defaults, **settings}))


@contextmanager
def supervising(models: Path, **settings: Any) -> Iterator[Supervisor]:
    """A running supervisor, whose workers are ready inside the block and stop immediately after the block."""
    supervised = supervisor(models, **settings)
    supervised.start()
    try:
        yield supervised
    finally:
        supervised.stop(grace=0)


@contextmanager
def supervising_and_stubs(models: Path, count: int, **settings: Any) -> Iterator[tuple[Supervisor, list[Stub]]]:
    """A running supervisor, and this many stubs with separate connections."""
    with ExitStack() as stack:
        with structlog.testing.capture_logs() as log:
            supervised = stack.enter_context(supervising(models, **settings))
        (address,) = [line["address"] for line in log if line["event"] == "ready"]
        channels = [stack.enter_context(grpc.insecure_channel(address, OWN_CONNECTION)) for _ in range(count)]
        yield supervised, [Stub(channel) for channel in channels]


def pids(server: Serving) -> list[int]:
    """The process IDs of all workers that have begun to listen, in the order in which they began."""
    lines = [line for line in list(server.log) if 'event="worker listens"' in line]
    return [int(re.findall(r"pid=(\d+)", line)[0]) for line in lines]


def ask(stub: Stub) -> float:
    answer = outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT, wait_for_ready=True))
    return float(answer["value"].item())


def metrics(text: str) -> dict[str, float]:
    """A server's metrics about workers, the transport and inferences, by name."""
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
