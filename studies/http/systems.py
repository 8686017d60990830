"""The ways into a server that are compared, by name: how each server is started, and what a request is."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np

from hangtag.serving.model_repository import serving_versions
from studies.server import h2load
from studies.server.h2load import Load, Outcome
from studies.server.peers.triton import free_ports, triton
from studies.server.process import Launch, Served, hangtag_serve

MODEL = "lstm"
FASTAPI = Path(__file__).parents[2] / ".venv-fastapi"
FASTAPI_WORKERS = 2

SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "http": "hangtag over HTTP, an image as a binary tensor",
        "http-2": "the same with two worker processes, as FastAPI has",
        "json": "hangtag over HTTP, an image as numbers in JSON",
        "grpc": "hangtag over gRPC (native), with HTTP on and idle",
        "grpc-alone": "hangtag over gRPC (native), without HTTP",
        "fastapi": f"FastAPI on uvicorn, {FASTAPI_WORKERS} workers, an image as the body, no batching",
        "triton": "Triton's HTTP endpoint, its Python backend, two instances, an image as a binary tensor",
        "minimal": "the least that a Python server on uvicorn can do: no routes, deadlines, checks, limits or costs",
    }
)


@dataclass(frozen=True)
class Requests:
    """What is sent to a running server, over HTTP/1.1.

    Args:
        url: http://host:port/path.
        body: Of each request.
        headers: Of each request, each as "name: value".
    """

    url: str
    body: bytes
    headers: tuple[str, ...]

    def put(self, load: Load) -> Outcome:
        """Put a load on the server. Raises click.ClickException if a request fails."""
        return h2load.post(self.url, self.body, self.headers, load, "--h1")


def launches(names: Iterable[str], models: Path, stack: ExitStack) -> dict[str, Launch]:
    """How to start the server of each of these systems.

    Raises:
        click.ClickException: one of them cannot be had on this machine.
    """
    by_name: dict[str, Launch] = {}
    for name in names:
        if name == "fastapi":
            by_name[name] = fastapi(models)
        elif name == "minimal":
            by_name[name] = minimal(models)
        elif name == "triton":
            by_name[name] = stack.enter_context(triton(models))
        elif name == "http-2":
            by_name[name] = _with_http(models, "--workers", "2")
        elif name == "grpc-alone":
            by_name[name] = hangtag_serve(models, "--transport", "native")
        else:
            by_name[name] = _with_http(models)
    return by_name


def requests(name: str, server: Served) -> Requests:
    """The requests of a system that speaks HTTP."""
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    if name == "fastapi":
        return Requests(f"http://{server.http}/infer", image.tobytes(), ("content-type: application/octet-stream",))
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": image.shape}
    url = f"http://{server.http}/v2/models/{MODEL}/infer"
    if name == "json":
        body = json.dumps({"inputs": [tensor | {"data": image.ravel().tolist()}]}).encode()
        return Requests(url, body, ("content-type: application/json",))
    tensor["parameters"] = {"binary_data_size": image.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = ("content-type: application/octet-stream", f"inference-header-content-length: {len(head)}")
    return Requests(url, head + image.tobytes(), headers)


def fastapi(models: Path, environment: Path = FASTAPI) -> Launch:
    """How to start the FastAPI server of the model.

    Raises:
        click.ClickException: the environment or the model is missing.
    """
    program = environment / "bin/uvicorn"
    if not program.exists():
        raise click.ClickException(
            f"{program} is missing. Run 'make fastapi', which installs it, or leave FastAPI out."
        )
    file = _model_file(models)
    (port,) = free_ports(1)
    command = (
        program, "--app-dir", Path(__file__).parent, "fastapi_app:app", "--workers", str(FASTAPI_WORKERS),
        "--port", str(port), "--no-access-log",
    )  # fmt: skip
    return Launch(command, r"(Application startup complete)", {"MODEL_FILE": file.resolve()}, http=f"127.0.0.1:{port}")


def minimal(models: Path) -> Launch:
    """How to start the minimal server of the model. Raises click.ClickException: the model is missing."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "studies.http.minimal", _model_file(models).resolve(), str(port))
    return Launch(command, r"(Uvicorn running on)", http=f"127.0.0.1:{port}")


def _model_file(models: Path) -> Path:
    files = {file.name: file.path for file in serving_versions(models)}
    if MODEL not in files:
        raise click.ClickException(f"{models} has no model {MODEL}.")
    return files[MODEL]


def _with_http(models: Path, *options: str) -> Launch:
    (port,) = free_ports(1)
    launch = hangtag_serve(models, "--transport", "native", "--http-port", str(port), *options)
    return replace(launch, http=f"127.0.0.1:{port}")
