"""Makes what many test files need once for a whole test run: pytest-xdist's workers share it."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """The value of ``make(folder)``, which the first worker to come calls and the others read.

    Args:
        name: what is made; the same name is made once.
        make: fills a folder, and returns a value that can be pickled. Tests only read the folder: one that damages a
            file copies it first.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in it
    folder = base / "once" / name
    value = folder.with_suffix(".pickle")
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if value.is_file():
            shared: T = pickle.loads(value.read_bytes())
            return shared
        shutil.rmtree(folder, ignore_errors=True)  # what a test that failed here left behind
        folder.mkdir()
        made = make(folder)
        value.write_bytes(pickle.dumps(made))
        return made
