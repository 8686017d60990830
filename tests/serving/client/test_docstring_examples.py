"""The examples in the clients' docstrings run unchanged, against a server of the shipped models."""

import ast
import asyncio
import contextlib
import doctest
import io
from collections.abc import Iterator
from inspect import iscoroutine
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import structlog

from hangtag import AsyncClient, Client, ConnectionOptions
from hangtag.serving.server.process.server import Server
from tests.kit.server import server as running_server

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(ROOT / "models", provider="cpu", model_control="explicit", load_model=("*",)) as running:
        yield running


@pytest.fixture(params=["gRPC", "HTTP"])
def address(request: pytest.FixtureRequest, server: Server) -> str:
    return server.address if request.param == "gRPC" else f"http://{server.http_address}"


def documented(kind: type) -> dict[str, str]:
    """The docstrings of a class and of its own public methods, if they contain examples."""
    members = {f"{kind.__name__}.{name}": member for name, member in vars(kind).items() if not name.startswith("_")}
    documents = {name: each.__doc__ or "" for name, each in {kind.__name__: kind, **members}.items()}
    return {name: text for name, text in documents.items() if ">>>" in text}


DOCSTRINGS = documented(Client) | documented(AsyncClient) | {"ConnectionOptions": ConnectionOptions.__doc__ or ""}


def run(name: str, code: str, variables: dict[str, Any], runner: asyncio.Runner) -> None:
    """Run each example of a docstring and compare its output with the docstring. An example may contain ``await``."""
    example = doctest.DocTestParser().get_doctest(code, variables, name, None, None)
    assert example.examples
    for line in example.examples:
        printed = io.StringIO()
        # Other threads may log meanwhile, and their log lines would become part of the output.
        with structlog.testing.capture_logs(), contextlib.redirect_stdout(printed):
            compiled = compile(line.source, name, "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = FunctionType(compiled, example.globs)()
            if iscoroutine(result):
                runner.run(result)
        assert printed.getvalue() == line.want, line.source


@pytest.fixture
def variables(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The variables that the examples use, except for ``client``. The models cnn and lstm have each answered a call."""
    monkeypatch.chdir(ROOT)
    image = (ROOT / "examples/garments/bag-1.png").read_bytes()
    with Client(address) as client:
        for model in ("cnn", "lstm"):  # an example shows the statistics of these calls
            client.classify(image, model)
        yield {"image": image, "np": np, "Client": Client, "ConnectionOptions": ConnectionOptions}


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_the_example_runs(name: str, address: str, variables: dict[str, Any]) -> None:
    code = DOCSTRINGS[name].replace("127.0.0.1:8001", address)
    with asyncio.Runner() as runner, Client(address) as client:
        own = AsyncClient(address) if name.startswith("AsyncClient") else client
        run(name, code, {"client": own, **variables}, runner)
        if name.endswith("unload_model"):  # other examples call this model
            client.load_model("lstm2")
        if isinstance(own, AsyncClient):
            runner.run(own.close())
