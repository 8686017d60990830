"""Imports the modules for training and exporting in the process from which tests/kit/forkserver.py forks."""

import gc
import importlib

gc.disable()
for module in (
    "torch._dynamo",  # otherwise the first optimizer would import it
    "hangtag.training.cli",
    "hangtag.export.cli",
    "hangtag.export.child_process",
    "hangtag.export.third_party.importer",
):
    importlib.import_module(module)
gc.freeze()  # see preloaded.py
gc.enable()
