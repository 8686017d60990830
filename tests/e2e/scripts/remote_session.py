"""An object that replaces an onnxruntime.InferenceSession and runs the model on a server.

Runs in .venv-others, where hangtag is not installed, so it calls the server with tritonclient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import triton_to_np_dtype


class RemoteSession:
    """Has only InferenceSession's method `run`, because the tested packages call no other method."""

    def __init__(self, address: str, model: str) -> None:
        self._client = grpc.InferenceServerClient(address)
        self._model = model
        self._metadata = self._client.get_model_metadata(model)

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """Returns the named outputs. Without names, returns all outputs in the model's order.

        Args:
            output_names: The outputs to return.
            feed: An array or nested lists for each input.
        """
        names = output_names or [output.name for output in self._metadata.outputs]
        inputs = []
        for tensor in self._metadata.inputs:
            array = np.asarray(feed[tensor.name], triton_to_np_dtype(tensor.datatype))
            inputs.append(grpc.InferInput(tensor.name, list(array.shape), tensor.datatype))
            inputs[-1].set_data_from_numpy(array)
        outputs = [grpc.InferRequestedOutput(name) for name in names]
        result = self._client.infer(self._model, inputs, outputs=outputs, client_timeout=60)
        return [result.as_numpy(name) for name in names]
