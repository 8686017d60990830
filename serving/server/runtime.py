"""ONNX Runtime, and the only module that knows it: one session, which runs one batch at a time per caller."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Official Linux builds since 1.29 send telemetry unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from serving.server.errors import InferenceError, ModelLoadError
from serving.signature import Signature, TensorSpec, UnsupportedModelError

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

VERSION: str = onnxruntime.__version__
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ONNX Runtime's dtype for each datatype; every other datatype is numpy's own name in lower case.
_DTYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}


class Runtime:
    """A loaded model. ``run`` may be called from several threads at once; it releases the GIL while it computes."""

    def __init__(
        self, path: Path, *, provider: str = "auto", threads: int = 1, batching_override: bool | None = None
    ) -> None:
        """Load a model file.

        provider: ``cpu``, ``cuda`` (an error when it cannot be had), or ``auto`` (CUDA where it can be had, else CPU).
        threads: ONNX Runtime's intra_op_num_threads.
        batching_override: whether requests may be joined, whatever the file says; None leaves it to the file.
        Raises ModelLoadError when the file cannot be loaded or the provider cannot be had.
        """
        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal: errors are raised as well, and are said once, in our own log
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=_providers(provider))
        except ModelLoadError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            raise ModelLoadError(f"{path} cannot be loaded by ONNX Runtime {VERSION}: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        if provider == "cuda" and self.provider != _PROVIDERS["cuda"]:
            raise ModelLoadError(
                f"{path}: CUDA was asked for and ONNX Runtime gave {self.provider}. "
                "Check the driver with nvidia-smi, or use --provider cpu."
            )
        try:
            self.signature = Signature.from_onnx(
                [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in self._session.get_inputs()],
                [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in self._session.get_outputs()],
                self._session.get_modelmeta().custom_metadata_map,
                batching_override,
            )
        except UnsupportedModelError as error:
            raise ModelLoadError(f"{path}: {error}") from error
        self._output_names = [spec.name for spec in self.signature.outputs]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Every output for these inputs, by name. Raises InferenceError when ONNX Runtime fails."""
        try:
            outputs = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # as above
            raise InferenceError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(self._output_names, outputs, strict=True))

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run zeros once at each batch size, so that no caller pays for first allocations. Other free axes get size 1.

        Raises ModelLoadError for a model that loads but cannot compute.
        """
        for size in batch_sizes if self.signature.batched else [1]:
            inputs = {spec.name: _zeros(spec, size) for spec in self.signature.inputs}
            try:
                self.run(inputs)
            except InferenceError as error:
                if not self.signature.batched or any(None in spec.shape[1:] for spec in self.signature.inputs):
                    return  # zeros of size 1 are a guess; what callers send may still be computed
                shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
                raise ModelLoadError(f"{self._path} loads, but fails on zeros ({shapes}): {error}") from error


def _providers(provider: str) -> list[str]:
    available = onnxruntime.get_available_providers()
    if provider == "cpu" or (provider == "auto" and _PROVIDERS["cuda"] not in available):
        return [_PROVIDERS["cpu"]]
    if _PROVIDERS["cuda"] not in available:
        raise ModelLoadError(
            f"CUDA was asked for and this ONNX Runtime has only {', '.join(available)}. "
            "Install the GPU build (pip install '.[gpu]', without onnxruntime beside it), or use --provider cpu."
        )
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries may come from PyPI instead of from the system
    return [_PROVIDERS["cuda"], _PROVIDERS["cpu"]]


def _zeros(spec: TensorSpec, batch_size: int) -> Array:
    shape = [1 if size is None else size for size in spec.shape]
    if spec.shape and spec.shape[0] is None:
        shape[0] = batch_size
    dtype = np.dtype(_DTYPES.get(spec.datatype, spec.datatype.lower()))
    return np.full(shape, "", dtype) if spec.datatype == "BYTES" else np.zeros(shape, dtype)
