"""Makes what many test files need once: for a test run, or for as long as the sources that decide it stay the same."""

import hashlib
import inspect
import os
import pickle
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")
_ROOT = Path(__file__).parents[2]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "hangtag-tests")
"""A folder of this user's own: what is read from it is unpickled."""
_KEPT_SECONDS = 7 * 24 * 3600
"""What no test run has used for so long is deleted."""


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T], *, sources: Sequence[str] = ()) -> T:
    """The value of ``make(folder)``, which the first worker of pytest-xdist to come calls and the others read.

    Args:
        factory: Knows the test run's temporary folder.
        name: What is made; the same name is made once.
        make: A function that fills a folder, and returns a value that can be pickled. Tests only read the folder: one
            that changes a file copies it first.
        sources: Files and folders of the repository that decide what is made, such as ``training``. With them the
            folder outlives the test run, and later runs read it until one of these files, the module of ``make`` or an
            installed package changes. Nothing in it may name a temporary folder or the checkout.
    """
    if sources:
        home = _CACHE / _digest_of_sources([*sources, inspect.getsourcefile(make) or ""])
        home.mkdir(parents=True, exist_ok=True)
        os.utime(home)
        _delete_unused()
    else:
        home = factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            home = home.parent  # each worker has a folder of its own in it
        home = home / "once"
        home.mkdir(exist_ok=True)
    folder = home / name
    value = home / f"{name}.pickle"
    with FileLock(home / f"{name}.lock"):
        if value.is_file():
            digest, kept = pickle.loads(value.read_bytes())
            if not sources or digest == _digest(folder, _files(folder)):  # unless a test has damaged it
                shared: T = kept
                return shared
        shutil.rmtree(folder, ignore_errors=True)  # what a test that failed here left behind
        folder.mkdir()
        new = make(folder)
        written = home / f"{name}.tmp"
        written.write_bytes(pickle.dumps((_digest(folder, _files(folder)), new)))
        written.replace(value)  # as a whole, though the test run may be killed now
        return new


def _digest_of_sources(sources: Iterable[str]) -> str:
    files = [file for source in sources for file in _files(_ROOT / source)]
    assert all((_ROOT / source).exists() for source in sources), sources
    packages = sorted(path.name for path in Path(sysconfig.get_path("purelib")).iterdir())  # with their versions
    return hashlib.sha256("\n".join([sys.version, *packages, _digest(_ROOT, files)]).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    """A file, or the files under a folder, without what Python compiles; links to folders are not followed."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc"]


def _digest(root: Path, files: Iterable[Path]) -> str:
    """Of the files' names and contents."""
    whole = hashlib.sha256()
    for file in sorted(set(files)):
        whole.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _delete_unused() -> None:
    for home in _CACHE.iterdir():
        if home.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(home, ignore_errors=True)
