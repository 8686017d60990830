"""Starts the server that is fuzzed."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit import onnx_models, requests, shipped
from tests.kit.command import serving
from tests.kit.target import Target

MANY_FILES = 8192
"""Files that this process and the server may open: a connection takes one in each."""


@contextmanager
def serving_target(models: Path, transport: str) -> Iterator[Target]:
    """Start the server with one model of every kind in this folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(MANY_FILES, hard) if hard != resource.RLIM_INFINITY else MANY_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many), hard))  # the server inherits it
    for name in requests.MODELS:
        if name == "lstm":
            (models / name).symlink_to(shipped.MODELS / name)
        else:
            onnx_models.publish(models, name, getattr(onnx_models, name)())
    with serving("--models", str(models), "--port", "0", "--max-batch-size", "16", "--transport", transport) as server:
        target = Target(server, transport)
        yield target
        target.close()
