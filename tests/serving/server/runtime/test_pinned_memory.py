import ctypes
import gc

import numpy as np
import pytest

from hangtag.serving.server.runtime.pinned_memory import PinnedMemory


def cudart() -> str:
    """The version of the CUDA runtime that is installed here; empty where there is none."""
    for major in ("13", "12"):
        try:
            ctypes.CDLL(f"libcudart.so.{major}")
        except OSError:
            continue
        return f"{major}.0"
    return ""


@pytest.mark.parametrize("version", ["", "7.5"])
def test_without_cuda_the_memory_is_plain_and_says_why(version: str) -> None:
    memory = PinnedMemory(version)
    array = memory.zeros((3, 4), np.dtype("float16"))
    assert array.shape == (3, 4)
    assert array.dtype == np.float16
    assert array.flags.writeable
    assert not array.any()
    assert ("libcudart.so.7" if version else "built without CUDA") in memory.problem


@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (5000, 3)])
def test_arrays_of_every_shape_are_on_pages_of_their_own(shape: tuple[int, ...]) -> None:
    array = PinnedMemory("").zeros(shape, np.dtype("int32"))
    assert array.shape == shape
    assert array.size == 0 or array.ctypes.data % 4096 == 0


@pytest.mark.skipif(not cudart(), reason="the CUDA runtime is not installed here")
def test_with_the_cuda_runtime_pages_are_locked_or_the_problem_names_the_error() -> None:
    memory = PinnedMemory(cudart())
    array = memory.zeros((1000,), np.dtype("float32"))
    array[:] = 1
    assert array.sum() == 1000
    devices = ctypes.c_int(0)
    library = ctypes.CDLL(f"libcudart.so.{cudart().partition('.')[0]}")
    has_gpu = library.cudaGetDeviceCount(ctypes.byref(devices)) == 0 and devices.value > 0
    assert bool(memory.problem) is not has_gpu
    assert has_gpu or "cudaHostRegister failed with CUDA's error" in memory.problem
    del array
    gc.collect()  # unlocked, where it was locked
