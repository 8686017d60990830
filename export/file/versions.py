"""The versions of the programs that write and prove a file. Needs no torch."""

import platform

import onnx

from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION


def versions() -> dict[str, str]:
    """Program -> version, for a file's metadata."""
    return {"python": platform.python_version(), "onnx": onnx.__version__, "onnxruntime": ONNXRUNTIME_VERSION}
