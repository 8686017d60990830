"""Compare the memory of a server that has unloaded or replaced a large model with the memory of a new server."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hangtag import Client
from studies import options
from studies.bench.process import Served, hangtag_serve, served
from studies.page import table

WIDTH = 7_232
"""Edge of the model's only matrix, which is square and takes 200 MB."""
LARGE, SMALL = "large", "cnn"
_SETTLE_SECONDS = 2.0


@click.command()
@options.MODELS
@click.option("--replacements", type=click.IntRange(1), default=50, show_default=True, help="Of the large model.")
def main(models: Path, replacements: int) -> None:
    """Load, unload and replace a model of 200 MB, and print the table of the README: megabytes of the process."""
    rows: list[tuple[str, str, str]] = []
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        (repository / SMALL).symlink_to((models / SMALL).resolve())
        _publish(repository, 1)
        with _server(repository, SMALL) as (server, client):
            rows.append(_row(f"new, with {SMALL}", server))
            client.load_model(LARGE)
            _call(client)
            client.unload_model(LARGE)
            rows.append(_row("after the large model was loaded, called and unloaded", server))
        with _server(repository, SMALL, LARGE) as (server, client):
            rows.append(_row(f"new, with {SMALL} and the large model", server))
            for version in range(2, replacements + 2):
                _publish(repository, version)
                client.load_model(LARGE)
                _call(client)
                shutil.rmtree(repository / LARGE / str(version - 1))
                click.echo(f"version {version}: {server.resident_mb():.0f} MB", err=True)
            rows.append(_row(f"after {replacements} replacements of the large model", server))
    click.echo(table(("the server", "RSS, MB", "PSS, MB"), rows, right=2))


@contextmanager
def _server(repository: Path, *loaded: str) -> Iterator[tuple[Served, Client]]:
    """Run a server that loads models on request. It has answered a call to each model that it has loaded."""
    arguments = ["--model-control", "explicit", *(word for name in loaded for word in ("--load-model", name))]
    with served(hangtag_serve(repository, *arguments)) as server, Client(server.address) as client:
        client.infer(SMALL, {"image": np.zeros((8, 28, 28), np.uint8)})
        if LARGE in loaded:
            _call(client)
        yield server, client


def _call(client: Client) -> None:
    for samples in (1, 8):
        client.infer(LARGE, {"x": np.zeros((samples, WIDTH), np.float32)})


def _row(state: str, server: Served) -> tuple[str, str, str]:
    time.sleep(_SETTLE_SECONDS)  # memory is given back a moment after a load
    return state, f"{server.resident_mb():.0f}", f"{server.pss_mb():.0f}"


def _publish(repository: Path, version: int) -> None:
    """Write a version of the large model, with different weights in each version."""
    weights = np.random.default_rng(version).standard_normal((WIDTH, WIDTH), np.float32)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in "xy"]
    product = helper.make_node("MatMul", ["x", "weights"], ["y"])
    graph = helper.make_graph([product], LARGE, values[:1], values[1:], [numpy_helper.from_array(weights, "weights")])
    prepared = repository / f".{version}"
    prepared.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, prepared / "model.onnx")
    (repository / LARGE).mkdir(exist_ok=True)
    prepared.rename(repository / LARGE / str(version))
