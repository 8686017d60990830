"""Page-locked (pinned) memory of this machine, which a GPU reads without the CPU's help."""

import ctypes
import math
import mmap
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class PinnedMemory:
    """Allocates arrays in page-locked memory. ``problem`` says why they are in plain memory instead, or is empty."""

    def __init__(self, cuda_version: str) -> None:
        """cuda_version: the version of CUDA that ONNX Runtime was built with, such as 12.8; empty without CUDA."""
        self.problem = ""
        self._cudart: ctypes.CDLL | None = None
        if not cuda_version:
            self.problem = "this ONNX Runtime is built without CUDA"
            return
        try:
            self._cudart = ctypes.CDLL(f"libcudart.so.{cuda_version.partition('.')[0]}")
        except OSError as error:
            self.problem = str(error)

    def zeros(self, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array of zeros on pages that no other array uses, because a page can be locked only once."""
        count = math.prod(shape)
        pages = mmap.mmap(-1, max(1, count * dtype.itemsize))
        array = np.frombuffer(pages, dtype, count)
        if self._cudart is not None:
            address = ctypes.c_void_p(array.ctypes.data)
            # Source: the CUDA runtime API's memory management, cudaHostRegister(ptr, size, flags); 0 is success.
            code = self._cudart.cudaHostRegister(address, ctypes.c_size_t(len(pages)), 0)
            if code == 0:
                weakref.finalize(array, self._cudart.cudaHostUnregister, address)
            else:
                self.problem = f"cudaHostRegister failed with CUDA's error {code}"
        return array.reshape(shape)
