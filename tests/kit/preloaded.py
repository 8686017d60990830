"""Imports what the commands that serve and call need, in the process that tests/kit/forkserver.py forks from."""

import gc
import importlib

from hangtag.serving.server.process import environment

environment.prepare()
for module in (
    "tests.kit.sleeping_threads",
    "hangtag.cli",
    "hangtag.serving.client.classify",
    "hangtag.serving.client.health",
    "hangtag.serving.client.top",
    "hangtag.serving.loadtest.cli.command",
    "hangtag.serving.server.cli",
    "hangtag.serving.server.process.main",
    "hangtag.serving.server.transport.http.server",
    "hangtag.serving.server.transport.native.server",
):
    importlib.import_module(module)
gc.freeze()  # so that no collection touches, and thereby copies, the memory that the processes share
