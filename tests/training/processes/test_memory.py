"""A process that trains gives freed memory to its next tensors."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from hangtag.training.processes.memory import keep_freed_memory

pytestmark = pytest.mark.slow

_PAGES_OF_A_TENSOR = """
import resource, sys
import torch
from hangtag.cli import main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
main(standalone_mode=False)
faults()
print(before, faults())
"""


class _AnotherCLibrary:
    """One without mallopt."""

    def __init__(self, name: object) -> None:
        pass


def test_a_c_library_without_the_setting_keeps_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", _AnotherCLibrary)
    assert not keep_freed_memory()


def test_a_run_maps_no_memory_anew_for_each_tensor(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PAGES_OF_A_TENSOR, *arguments, "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split()[-2:])
    assert before > 10  # 64 MB are 16,000 pages, or 32 huge ones
    assert after < before / 4
