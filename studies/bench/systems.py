"""The compared systems, each with the command that starts the server, and with a function that sends a load."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import trustme

from hangtag.serving.model_repository import ROUTE_FILE, serving_versions
from studies.bench import h2load
from studies.bench.loads import Send, over_grpc
from studies.bench.peers.triton import free_ports, triton
from studies.bench.process import Launch, Served, hangtag_serve
from studies.page import ROOT

NETWORKS = ("lstm", "lstm2", "cnn")
"""The models that each server loads. The goals for memory and start time were set for these models."""
_FASTAPI = ROOT / ".venv-fastapi/bin/uvicorn"
FASTAPI_WORKERS = 2
_PEERS = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class System:
    """A server that is compared.

    Args:
        description: A human-readable description of the system.
        launch: Yields the command that starts the system on a model repository, and removes the system's files at the
            end of the context. Raises click.ClickException if this machine lacks the system.
        send: Returns a function that sends a load for a model to the running system.
    """

    description: str
    launch: Callable[[Path], AbstractContextManager[Launch]]
    send: Callable[[Served, str], Send] = over_grpc


def hangtag(*options: str) -> Callable[[Path], AbstractContextManager[Launch]]:
    """Return a function that yields the command for `hangtag serve` with these options."""
    return lambda models: nullcontext(hangtag_serve(models, *options))


@contextmanager
def with_tls(models: Path, *options: str) -> Iterator[Launch]:
    """Yield the command that starts `hangtag serve` with these options and a temporary certificate."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    with TemporaryDirectory() as name:
        ca, cert, key = (Path(name, file) for file in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(str(ca))
        certificate.cert_chain_pems[0].write_to_path(str(cert))
        certificate.private_key_pem.write_to_path(str(key))
        yield replace(hangtag_serve(models, "--tls-cert", str(cert), "--tls-key", str(key), *options), ca=ca)


def minimal(models: Path) -> AbstractContextManager[Launch]:
    """Return a context manager that yields the command for peers/minimal.py."""
    command = (sys.executable, "-m", "studies.bench.peers.minimal", models.resolve())
    return nullcontext(Launch(command, r"^ready (\S+)"))


def http_minimal(models: Path) -> AbstractContextManager[Launch]:
    """Return a context manager that yields the command for peers/http_minimal.py."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "studies.bench.peers.http_minimal", _lstm(models), str(port))
    return nullcontext(Launch(command, r"(Uvicorn running on)", http=f"127.0.0.1:{port}"))


def fastapi(models: Path) -> AbstractContextManager[Launch]:
    """Like `minimal`, but the command runs peers/fastapi_app.py. Raises click.ClickException without .venv-fastapi."""
    if not _FASTAPI.exists():
        raise click.ClickException(f"{_FASTAPI} is missing. Run 'make fastapi', or leave FastAPI out of --only.")
    (port,) = free_ports(1)
    command = (
        *(_FASTAPI, "--app-dir", _PEERS, "fastapi_app:app", "--workers", str(FASTAPI_WORKERS)),
        *("--port", str(port), "--no-access-log"),
    )
    variables = {"MODEL_FILE": _lstm(models)}
    return nullcontext(Launch(command, r"(Application startup complete)", variables, http=f"127.0.0.1:{port}"))


def binary(server: Served, model: str) -> Send:
    """Return a function that sends an image as a binary tensor over HTTP/1.1."""
    tensor = _tensor() | {"parameters": {"binary_data_size": _image().nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = f"inference-header-content-length: {len(head)}"
    return _post(f"http://{server.http}/v2/models/{model}/infer", head + _image().tobytes(), _BYTES, length)


def numbers(server: Served, model: str) -> Send:
    """Return a function that sends an image as numbers in JSON over HTTP/1.1."""
    body = json.dumps({"inputs": [_tensor() | {"data": _image().ravel().tolist()}]}).encode()
    return _post(f"http://{server.http}/v2/models/{model}/infer", body, "content-type: application/json")


def bare_bytes(server: Served, _model: str) -> Send:
    """Return a function that sends an image as the request's body over HTTP/1.1."""
    return _post(f"http://{server.http}/infer", _image().tobytes(), _BYTES)


_BYTES = "content-type: application/octet-stream"
_NATIVE = ("--transport", "native")

SERVER: Mapping[str, System] = {
    "native": System("hangtag serve --transport native", hangtag(*_NATIVE)),
    "native-2": System("`native` with two worker processes", hangtag(*_NATIVE, "--workers", "2")),
    "grpc": System("hangtag serve --transport grpc", hangtag("--transport", "grpc")),
    "tls": System("hangtag serve with TLS", with_tls),
    "triton": System("Triton with its Python backend, two instances of each model", triton),
    "minimal": System("a minimal Python server on pygrpc-native, without deadlines, checks or timings", minimal),
}
HTTP: Mapping[str, System] = {
    "http": System("hangtag over HTTP, an image as a binary tensor", hangtag(*_NATIVE), binary),
    "http-2": System("`http` with two worker processes, like FastAPI", hangtag(*_NATIVE, "--workers", "2"), binary),
    "json": System("hangtag over HTTP, an image as numbers in JSON", hangtag(*_NATIVE), numbers),
    "grpc": System("hangtag over gRPC (native transport); HTTP is on, but not called", hangtag(*_NATIVE)),
    "fastapi": System(
        f"FastAPI on uvicorn, {FASTAPI_WORKERS} workers, an image as the body, no batching", fastapi, bare_bytes
    ),
    "triton": System(
        "Triton's HTTP endpoint, its Python backend, two instances, an image as a binary tensor", triton, binary
    ),
    "minimal": System(
        "a minimal Python server on uvicorn, without routes, deadlines, checks, limits or timings",
        http_minimal,
        binary,
    ),
}


def networks(models: Path) -> AbstractContextManager[Path]:
    """Yield a copy of a model repository, without the models that are not in NETWORKS."""
    return repository(models, [name for name in NETWORKS if (models / name).is_dir()])


@contextmanager
def repository(models: Path, names: Iterable[str], routes: Mapping[str, str] = {}) -> Iterator[Path]:
    """Yield a copy of a model repository, which is removed at the end of the context.

    Args:
        models: The repository.
        names: The routes and models to copy. Only the serving version of each model is copied.
        routes: The route.toml of each further route.

    Raises:
        click.ClickException: A model or a route is missing.
    """
    files = {file.name: file.path.parent for file in serving_versions(models)}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "models")
        for name in names:
            if not (models / name).is_dir():
                raise click.ClickException(f"{models} has no {name}, which this study calls.")
            source = files.get(name, models / name)
            shutil.copytree(source, folder / source.relative_to(models))
        for name, text in routes.items():
            (folder / name).mkdir()
            (folder / name / ROUTE_FILE).write_text(text)
        yield folder


def _post(url: str, body: bytes, *headers: str) -> Send:
    """Return a function that sends a request over HTTP/1.1, on a separate connection for each call in flight."""
    return lambda load: h2load.post(
        url, body, headers, replace(load, clients=load.clients * load.streams, streams=1), "--h1"
    )


def _tensor() -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": (1, 28, 28)}


def _image() -> "np.typing.NDArray[np.uint8]":
    return np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)


def _lstm(models: Path) -> Path:
    files = {file.name: file.path for file in serving_versions(models)}
    if "lstm" not in files:
        raise click.ClickException(f"{models} has no model lstm.")
    return files["lstm"].resolve()
