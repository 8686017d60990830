"""ONNX Runtime's execution providers: their names, their options, and what to do where one is not available."""

from collections.abc import Collection
from dataclasses import dataclass

from hangtag.serving.server.errors import ModelLoadError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
BY_NAME = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

_DISPLAY_NAMES = {"cuda": "CUDA", "tensorrt": "TensorRT"}
_GPU_BUILD = "Install the GPU build (pip install '.[gpu]', without the package onnxruntime), or use --provider cpu."
_HINTS = {
    "cuda": "Check the driver with nvidia-smi, or use --provider cpu.",
    "tensorrt": "Install TensorRT's libraries besides CUDA's (pip install tensorrt), or use --provider cuda.",
}


@dataclass(frozen=True)
class Gpu:
    """Which GPU computes, and how much of its memory a model's arena may take, in MiB; 0: no limit."""

    device_id: int = 0
    mem_limit_mib: int = 0


Provider = tuple[str, dict[str, str]]
"""A provider's name and options, as ONNX Runtime takes them."""


def provider_list(
    provider: str, available: Collection[str], gpu: Gpu | None = None, *, cuda_graphs: bool = False
) -> list[Provider]:
    """The providers to pass to ONNX Runtime, in order of precedence.

    Args:
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        available: The providers of the ONNX Runtime that is installed.
        gpu: Which GPU computes.
        cuda_graphs: Whether the session may capture CUDA graphs.

    Raises:
        ModelLoadError: This ONNX Runtime does not have the provider.
    """
    if provider != "cpu" and BY_NAME[provider] not in available:
        raise ModelLoadError(
            f"{_DISPLAY_NAMES[provider]} was requested, but this ONNX Runtime has only {', '.join(available)}. "
            f"{_GPU_BUILD}"
        )
    cpu: list[Provider] = [(CPU, {})]
    if provider == "cpu":
        return cpu
    gpu = gpu or Gpu()
    limit = str(gpu.mem_limit_mib * 1024 * 1024)
    # By default the arena doubles whenever it grows, and a model takes up to twice the memory that it needs.
    cuda = {"device_id": str(gpu.device_id), "arena_extend_strategy": "kSameAsRequested"}
    tensorrt = {"device_id": str(gpu.device_id)}
    if gpu.mem_limit_mib:
        cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = limit
    if cuda_graphs:
        cuda["enable_cuda_graph"] = "1"
    # CUDA computes the operators that TensorRT does not have, and the CPU those that CUDA does not have.
    return [*([(TENSORRT, tensorrt)] if provider == "tensorrt" else []), (CUDA, cuda), *cpu]


def not_obtained(provider: str, obtained: str) -> str:
    """The message for a provider that was requested and that ONNX Runtime replaced by another."""
    return f"{_DISPLAY_NAMES[provider]} was requested, but ONNX Runtime uses {obtained}. {_HINTS[provider]}"
