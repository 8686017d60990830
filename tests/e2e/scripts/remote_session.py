"""A model that is served, in the place of an onnxruntime.InferenceSession: in .venv-others, where our code is not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import triton_to_np_dtype


class RemoteSession:
    """Has the one method of InferenceSession that packages call."""

    def __init__(self, address: str, model: str) -> None:
        self._client = grpc.InferenceServerClient(address)
        self._model = model
        self._metadata = self._client.get_model_metadata(model)

    def run(self, names: Sequence[str] | None, values: Mapping[str, Any]) -> list[Any]:
        """The outputs of these names, or all in the model's order. Values are arrays or nested lists."""
        wanted = names or [output.name for output in self._metadata.outputs]
        inputs = []
        for tensor in self._metadata.inputs:
            array = np.asarray(values[tensor.name], triton_to_np_dtype(tensor.datatype))
            inputs.append(grpc.InferInput(tensor.name, list(array.shape), tensor.datatype))
            inputs[-1].set_data_from_numpy(array)
        outputs = [grpc.InferRequestedOutput(name) for name in wanted]
        answer = self._client.infer(self._model, inputs, outputs=outputs, client_timeout=60)
        return [answer.as_numpy(name) for name in wanted]
