"""What ONNX Runtime's arena holds unused goes back to the system."""

import ctypes
import subprocess
import sys

import onnx
import pytest

from hangtag.serving.server.runtime import arena
from tests.kit import shipped

_PROGRAM = f"""
import os
from pathlib import Path

import numpy as np

from hangtag.serving.server.host import memory
from hangtag.serving.server.runtime import arena
from hangtag.serving.server.runtime.session import Runtime
from studies.soak.processes import sample


def mib():
    return sample(os.getpid(), 0).rss_mb


runtime = Runtime(Path({str(shipped.latest("cnn"))!r}), provider="cpu")
runtime.run({{"image": np.zeros((1, 28, 28), np.uint8)}})
arena.shrink()  # opens its session, whose memory stays
for samples in (1, 512):
    runtime.run({{"image": np.zeros((samples, 28, 28), np.uint8)}})
    memory.release_freed_memory()
    print(mib())
arena.shrink()
memory.release_freed_memory()
print(mib())
"""


def test_the_model_that_is_computed_is_a_valid_one() -> None:
    onnx.checker.check_model(onnx.load_model_from_string(arena._COPY), full_check=True)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc's malloc_trim")
def test_the_memory_of_a_large_batch_is_freed() -> None:
    printed = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout
    before, after, shrunk = map(float, printed.split())
    assert after > before + 50
    assert shrunk < before + 10
