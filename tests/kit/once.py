"""Computes a result for all test files once in each test run or, with ``sources``, only if a source has changed."""

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
"""A folder that only this user can write, because the tests unpickle its files."""
_KEPT_SECONDS = 7 * 24 * 3600
"""Results that no test run has used for this many seconds are deleted."""


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T], *, sources: Sequence[str] = ()) -> T:
    """Return the value of ``make(folder)``, which the first worker of pytest-xdist computes and the others read.

    Args:
        factory: pytest's factory of temporary folders.
        name: The result's name; each result needs its own name.
        make: A function that fills a folder and returns a picklable value. Tests must not change the folder.
        sources: Files and folders of the repository that determine the result, such as ``training``. If any are given,
            later test runs reuse the result until one of these changes: a source, the module that defines ``make``, or
            an installed package. The result must not contain the path of a temporary folder or of the checkout.
    """
    if sources:
        home = _CACHE / _digest_of_sources([*sources, inspect.getsourcefile(make) or ""])
        home.mkdir(parents=True, exist_ok=True)
        os.utime(home)
        _delete_unused()
    else:
        home = factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            home = home.parent  # the folder that all workers share
        home = home / "once"
        home.mkdir(exist_ok=True)
    folder = home / name
    value = home / f"{name}.pickle"
    with FileLock(home / f"{name}.lock"):
        if value.is_file():
            digest, kept = pickle.loads(value.read_bytes())
            if not sources or digest == _digest(folder, _files(folder)):  # no test changed the files
                shared: T = kept
                return shared
        shutil.rmtree(folder, ignore_errors=True)  # remove the files of a test that failed
        folder.mkdir()
        new = make(folder)
        written = home / f"{name}.tmp"
        written.write_bytes(pickle.dumps((_digest(folder, _files(folder)), new)))
        written.replace(value)  # atomic, because the test run may be killed
        return new


def _digest_of_sources(sources: Iterable[str]) -> str:
    files = [file for source in sources for file in _files(_ROOT / source)]
    assert all((_ROOT / source).exists() for source in sources), sources
    packages = sorted(path.name for path in Path(sysconfig.get_path("purelib")).iterdir())  # the names contain versions
    return hashlib.sha256("\n".join([sys.version, *packages, _digest(_ROOT, files)]).encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    """The file itself, or all files in a folder and its subfolders, except .pyc files."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc"]


def _digest(root: Path, files: Iterable[Path]) -> str:
    """A digest of the files' names and contents."""
    whole = hashlib.sha256()
    for file in sorted(set(files)):
        whole.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _delete_unused() -> None:
    for home in _CACHE.iterdir():
        if home.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(home, ignore_errors=True)
