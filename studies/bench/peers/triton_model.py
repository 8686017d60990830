"""The model.py that Triton's Python backend runs for each model: one ONNX Runtime session of one thread.

Triton imports this module in a separate process, in .venv-triton.
"""

import os
import sys
from pathlib import Path
from typing import Any

# Triton's process embeds an interpreter that ignores PYTHONPATH.
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as backend  # noqa: E402


class TritonPythonModel:
    """One instance of a model. The Python backend prescribes the name of this class and of its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load model.onnx, which lies next to this file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Compute the samples of all requests as one batch, and split the answers."""
        images = [backend.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        (logits,) = self._session.run(["logits"], {"image": np.concatenate(images)})
        ends = np.cumsum([len(image) for image in images])[:-1]
        return [backend.InferenceResponse([backend.Tensor("logits", part)]) for part in np.split(logits, ends)]
