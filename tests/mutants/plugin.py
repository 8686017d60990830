"""A pytest plugin that records which tests run a function, or runs only chosen tests.

:mod:`tests.mutants.reach` copies this file to the root of a checkout, and inserts calls of :func:`reached` into the
code under test. This file imports nothing from the tests, because the tests of an older checkout may differ.
"""

import contextlib
import json
import os
from pathlib import Path

import pytest

REACHES = "MUTANT_REACHES"
"""The environment variable with the folder in which pytest records the tests that call each mutant's function."""
CHOSEN = "MUTANT_TESTS"
"""The environment variable with a JSON file of the tests to run, in order."""
REACHED, FAILED = "reached", "failed"
"""Files in the folder REACHES: the tests that call each mutant's function, and the tests that fail without mutants."""
_seen: set[tuple[int, str]] = set()


def reached(number: int) -> None:
    """Record the test in which a mutant's function runs. The product calls this function in each of its processes."""
    folder = os.environ.get(REACHES)
    if folder is None:
        return
    # Read the current test's name from a file, because this process may have been started by an earlier test. This
    # fails if a test has lowered the process's limit on open files.
    with contextlib.suppress(OSError):
        for running in Path(folder).glob(f"running.{os.environ.get('PYTEST_XDIST_WORKER', '*')}"):
            test = running.read_text()
            if (number, test) not in _seen:
                _seen.add((number, test))
                with (Path(folder) / REACHED).open("a") as file:
                    file.write(f"{number}\t{test}\n")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """While fixtures are set up, record the whole file, because other tests in the file may use the same fixtures."""
    _note(item.nodeid.partition("::")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Record the test that runs now."""
    _note(item.nodeid)


def _note(running: str) -> None:
    if REACHES in os.environ:
        file = Path(os.environ[REACHES]) / f"running.{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        written = file.with_name(file.name.replace("running", "written"))
        written.write_text(running)
        written.rename(file)  # atomic, so that no process reads half a name


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a test that fails even without a mutant, for example because it needs the whole checkout."""
    folder = os.environ.get(REACHES)
    if folder is not None and report.failed:
        with (Path(folder) / FAILED).open("a") as file:
            file.write(f"{report.nodeid}\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the chosen tests, in their order. The tests' conftest may have sorted them otherwise."""
    if CHOSEN in os.environ:
        places = {test: place for place, test in enumerate(json.loads(Path(os.environ[CHOSEN]).read_text()))}
        place_of = {item: places.get(item.nodeid, places.get(item.nodeid.partition("::")[0])) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if place_of[item] is None])
        items[:] = sorted((item for item in items if place_of[item] is not None), key=lambda item: place_of[item] or 0)
