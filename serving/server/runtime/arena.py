"""The one memory pool ("arena") of all sessions of this process, and how what is unused in it goes back to the system.

The arena never frees by itself. Each new version of a model leaves holes that the next large batch does not fit into,
so that a server whose models are replaced again and again would grow for hours. ONNX Runtime frees what no session uses
at the end of a computation, where that computation's options say so: here that of a model that only copies a number.
"""

import threading
from functools import cache

import numpy as np
import onnxruntime

_lock = threading.Lock()

_COPY = (
    b"\x08\x08"  # ir_version 8
    b'\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'  # a graph g of one node, y = Identity(x)
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # input x: FLOAT [1]
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"  # output y: FLOAT [1]
    b"B\x04\n\x00\x10\x11"  # opset 17
)
"""An ONNX file. Source: onnx.proto of ONNX 1.18."""


def share_one_arena() -> None:
    """Register one memory pool for all sessions; each would otherwise keep its own for the largest batch it ever had.

    The pool grows by the size requested (kSameAsRequested, 1) and not by doubling, which would keep unused memory.
    """
    with _lock:
        _register()


def shrink() -> None:
    """Free what no session uses now. It takes less than 1 ms after the first time; later batches allocate anew."""
    with _lock:
        _register()
        session = _copying_session()
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, {"x": np.zeros(1, np.float32)}, options)


@cache
def _register() -> None:
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        ),
        onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}),
    )


@cache
def _copying_session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(_COPY, options, providers=["CPUExecutionProvider"])
