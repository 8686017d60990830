"""Imports the modules for serving and calling in the process from which tests/kit/forkserver.py forks."""

import gc
import importlib

import click

from hangtag.cli import main

gc.disable()  # no garbage collection until the imports end
# Before the command imports a subcommand, it sets variables that ONNX Runtime reads when it is imported.
main.get_command(click.Context(main, resilient_parsing=True), "health")
for module in (
    "tests.kit.sleeping_threads",
    "hangtag.serving.client.classify",
    "hangtag.serving.client.top.top",
    "hangtag.serving.loadtest.cli.command",
    "hangtag.serving.server.cli",
    "hangtag.serving.server.process.main",
    "hangtag.serving.server.transport.http.http_server",
    "hangtag.serving.server.transport.native",
):
    importlib.import_module(module)
gc.freeze()  # a garbage collection would copy the shared memory, because it writes to objects
gc.enable()
