"""Fixtures of all tests."""

import gc
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import structlog

from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.dataset import Split
from tests.kit import sleeping_threads  # noqa: F401  the import itself changes ONNX Runtime's sessions

pytest.register_assert_rewrite("tests.kit.browser")


# Containers often set PYTHONDONTWRITEBYTECODE. With it, each worker of pytest-xdist would rewrite the assertions of all
# test files, and each process that a test starts would compile hangtag.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# A shell makes background processes ignore SIGINT. Processes that the tests start would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A server in this process may log while a test reads the output of a command in this process.
structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.__stderr__))


SLOW = tuple(f"tests/{name}/" for name in ("e2e", "hangtag", "serving/loadtest", "serving/server/transport"))
"""Folders of slow tests. Fast files in them are marked ``quick``; slow files elsewhere are marked ``slow``."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Freeze the millions of objects of imported modules, so that the garbage collector ignores them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow files first, so that the workers of pytest-xdist end at nearly the same time."""
    for item in items:
        if item.nodeid.startswith(SLOW) and not item.get_closest_marker("quick"):
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the total time of the tests in each folder, if it is over a minute."""
    seconds: dict[str, float] = defaultdict(float)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folders = report.nodeid.partition("::")[0].split("/")[1:-1]
            depth = 3 if "server" in folders else 2 if "serving" in folders else 1
            seconds["/".join(["tests", *folders[:depth]])] += report.duration
    if (total := sum(seconds.values())) > 60:
        terminalreporter.section("seconds of all workers, by folder")
        for folder, taken in [*sorted(seconds.items(), key=lambda each: -each[1]), ("all", total)]:
            terminalreporter.write_line(f"{taken:7.0f} {folder}")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Limit PyTorch to one thread if it is imported, so that results are equal on every machine."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    thread_count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(thread_count)


@pytest.fixture(scope="session", autouse=True)
def one_decompression() -> Iterator[None]:
    """Decompress and check the files of Debian's package only once for all commands in this process."""
    read, folder_of_package = data._read_checked, data.DEBIAN_DIR
    read_once = cache(read)

    def read_checked(folder: Path, name: str) -> bytes:
        return read_once(folder, name) if folder == folder_of_package else read(folder, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "_read_checked", read_checked)
        yield


@pytest.fixture(scope="session")
def garments() -> Split:
    """The 10,000 real test images."""
    return data.load_test()
