"""ONNX Runtime's execution providers: their names, their options, and what to do where one cannot be had."""

from collections.abc import Collection
from dataclasses import dataclass

from hangtag.serving.server.errors import ModelLoadError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
BY_NAME = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}

_CALLED = {"cuda": "CUDA", "tensorrt": "TensorRT"}
_BUILD = "Install the GPU build (pip install '.[gpu]', without onnxruntime beside it), or use --provider cpu."
_HINTS = {
    "cuda": "Check the driver with nvidia-smi, or use --provider cpu.",
    "tensorrt": "It needs TensorRT's libraries beside CUDA's (pip install tensorrt); or use --provider cuda.",
}


@dataclass(frozen=True)
class Gpu:
    """Which GPU, and how much of its memory a model's arena may take, in MiB; 0: no limit."""

    device_id: int = 0
    mem_limit_mib: int = 0


Provider = tuple[str, dict[str, str]]
"""A provider's name and options, as ONNX Runtime takes them."""


def wanted(
    provider: str, available: Collection[str], gpu: Gpu | None = None, *, cuda_graphs: bool = False
) -> list[Provider]:
    """What to hand to ONNX Runtime for ``cpu``, ``cuda`` or ``tensorrt``, in order of precedence.

    available: the providers of the ONNX Runtime that is installed. Raises ModelLoadError when it has none such.
    """
    if provider != "cpu" and BY_NAME[provider] not in available:
        raise ModelLoadError(
            f"{_CALLED[provider]} was asked for and this ONNX Runtime has only {', '.join(available)}. {_BUILD}"
        )
    cpu: list[Provider] = [(CPU, {})]
    if provider == "cpu":
        return cpu
    gpu = gpu or Gpu()
    limit = str(gpu.mem_limit_mib * 1024 * 1024)
    # Else the arena doubles whenever it grows, and a model takes up to twice the memory that it needs.
    cuda = {"device_id": str(gpu.device_id), "arena_extend_strategy": "kSameAsRequested"}
    tensorrt = {"device_id": str(gpu.device_id)}
    if gpu.mem_limit_mib:
        cuda["gpu_mem_limit"] = tensorrt["trt_max_workspace_size"] = limit
    if cuda_graphs:
        cuda["enable_cuda_graph"] = "1"
    # What TensorRT does not know is computed by CUDA, and what CUDA does not know by the CPU.
    return [*([(TENSORRT, tensorrt)] if provider == "tensorrt" else []), (CUDA, cuda), *cpu]


def not_obtained(provider: str, obtained: str) -> str:
    """The sentence for a provider that was asked for and not obtained."""
    return f"{_CALLED[provider]} was asked for and ONNX Runtime gave {obtained}. {_HINTS[provider]}"
