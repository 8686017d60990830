"""ModelInfer over HTTP: JSON that describes the tensors, and their bytes after it (the binary tensor extension)."""

import json
from typing import Any

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.connection.http.codec.wire import HttpAnswer, HttpRequest, path_to

HEAD_LENGTH = "inference-header-content-length"
"""The header with the length of the JSON, in bytes."""
BINARY_SIZE = "binary_data_size"


def model_path(model: str, version: str, *more: str) -> str:
    """Return the path of a model, or of one of its versions, and of what belongs to it."""
    return path_to("v2", "models", model, *(("versions", version) if version else ()), *more)


def infer_request(message: pb.ModelInferRequest, timeout: int | None) -> HttpRequest:
    """Return the request for a message with raw contents.

    Args:
        message: the request as gRPC sends it.
        timeout: microseconds until the deadline; None is no deadline.
    """
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout is not None:
        parameters["timeout"] = timeout
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {BINARY_SIZE: len(raw)},
        }
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": parameters}, separators=(",", ":")).encode()
    return HttpRequest(
        "POST",
        model_path(message.model_name, message.model_version, "infer"),
        b"".join((head, *message.raw_input_contents)),
        {"content-type": "application/octet-stream", HEAD_LENGTH: str(len(head))},
    )


def infer_response(answer: HttpAnswer, _request: object) -> pb.ModelInferResponse:
    """Read an answer as the message that gRPC would have brought.

    Raises any exception where it is not of the protocol.
    """
    offset = int(answer.headers.get(HEAD_LENGTH, len(answer.body)))
    if not 0 <= offset <= len(answer.body):
        raise ValueError(f"{HEAD_LENGTH} is {offset}, of {len(answer.body)} bytes")
    head = answer.json(offset)
    response = pb.ModelInferResponse(model_name=head["model_name"], model_version=head.get("model_version", ""))
    for output in head["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        response.outputs.append(pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape))
        size = output.get("parameters", {}).get(BINARY_SIZE)
        if size is None:  # a server may answer in JSON although binary data was asked for
            values = tensors.from_numbers(datatype, shape, output["data"], f"data of output {name!r}")
            response.raw_output_contents.append(tensors.to_raw(values))
        else:
            if not 0 <= size <= len(answer.body) - offset:
                raise ValueError(f"{BINARY_SIZE} of output {name!r} is {size}, of {len(answer.body) - offset} bytes")
            response.raw_output_contents.append(answer.body[offset : offset + size])
            offset += size
    return response
