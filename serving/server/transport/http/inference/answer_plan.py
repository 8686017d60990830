"""What the answers to all requests with one head have in common, for one version of a model."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from hangtag.protos import tensors
from hangtag.serving.server.batching.call import Tensors
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.http.inference import json_values
from hangtag.serving.server.transport.http.responses import to_json
from hangtag.serving.signature import TensorSpec

BINARY_SIZE, BINARY_DATA, BINARY_OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
"""Parameters of the binary tensor extension."""
_MAX_HEADS = 64


class AnswerPlan:
    """The outputs that are wanted, and how. JSON without values is serialized once for each shape."""

    def __init__(
        self, model: Servable, specs: Sequence[TensorSpec], binary: Sequence[bool], admission: Admission
    ) -> None:
        """Keep what was decided for the first of the requests.

        Args:
            model: The version that answers.
            specs: The requested outputs, in order.
            binary: Whether each of them is wanted as binary data.
            admission: What the model's check of the inputs returned.
        """
        self.admission = admission
        self.has_contents = any(binary)
        self.model = model
        self._model = {"model_name": model.name, "model_version": model.version}
        self._outputs = list(zip(specs, binary, strict=True))
        self.output_names = [spec.name for spec in specs]
        self._is_fixed = all(binary) and all(spec.datatype != "BYTES" for spec in specs)
        self._heads: dict[tuple[tuple[int, ...], ...], bytes] = {}

    def encode(self, outputs: Tensors, identity: str) -> tuple[bytes, list[bytes]]:
        """Return the JSON and the binary tensors.

        Args:
            outputs: The model's arrays by name.
            identity: The request's id; empty where it has none.

        Raises:
            InvalidRequestError: An output that is wanted in JSON has values that JSON does not have.
        """
        contents = [tensors.to_raw(outputs[spec.name]) for spec, as_binary in self._outputs if as_binary]
        if identity or not self._is_fixed:
            return self._head(outputs, contents, identity), contents
        shapes = tuple([outputs[name].shape for name in self.output_names])
        head = self._heads.get(shapes)
        if head is None:
            head = self._head(outputs, contents, "")
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[shapes] = head
        return head, contents

    def _head(self, outputs: Tensors, contents: Sequence[bytes], identity: str) -> bytes:
        sizes = (len(each) for each in contents)
        described: list[dict[str, Any]] = []
        for spec, as_binary in self._outputs:
            array = outputs[spec.name]
            output: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": array.shape}
            if as_binary:
                output["parameters"] = {BINARY_SIZE: next(sizes)}
            else:
                output["data"] = _values(spec, array)
            described.append(output)
        return to_json(({"id": identity} if identity else {}) | self._model | {"outputs": described})


def _values(spec: TensorSpec, array: npt.NDArray[Any]) -> list[Any]:
    try:
        return json_values.to_json(array)
    except ValueError as error:
        raise InvalidRequestError(
            f"output {spec.name!r} cannot be sent as JSON: {error}. Ask for it as binary data, with its parameter "
            f"{BINARY_DATA!r}: true"
        ) from error
