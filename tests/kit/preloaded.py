"""Imports the modules for serving and calling in the process from which tests/kit/forkserver.py forks."""

import gc
import importlib

import click

from hangtag.cli import main

gc.disable()  # until all is imported, as in tests/conftest.py
# The command sets the variables that ONNX Runtime reads at its import before it imports a subcommand.
main.get_command(click.Context(main, resilient_parsing=True), "health")
for module in (
    "tests.kit.sleeping_threads",
    "hangtag.serving.client.classify",
    "hangtag.serving.client.top.top",
    "hangtag.serving.loadtest.cli.command",
    "hangtag.serving.server.cli",
    "hangtag.serving.server.process.main",
    "hangtag.serving.server.transport.http.http_server",
    "hangtag.serving.server.transport.native.native_server",
):
    importlib.import_module(module)
gc.freeze()  # so that no garbage collection touches, and thereby copies, the shared memory
gc.enable()
