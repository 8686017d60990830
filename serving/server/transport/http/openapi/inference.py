"""Inference in the description: its parameters, bodies and headers, with an example in JSON and one in binary data."""

import json
import struct
from typing import Any

from hangtag.serving.server.transport.http.openapi.schemas import reference

HEAD_LENGTH = "Inference-Header-Content-Length"
CONTENT_ENCODING = {"name": "Content-Encoding", "in": "header", "schema": {"enum": ["gzip", "deflate", "identity"]}}
BINARY_SCHEMA = {"type": "string", "format": "binary"}
_ACCEPT_ENCODING = {
    "name": "Accept-Encoding",
    "in": "header",
    "description": "An answer of 1 KiB or more is compressed with the first of gzip and deflate that this has.",
    "schema": {"type": "string"},
}
_IMAGE = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28]}
_LOGITS = [1.5, -0.25, 0.0, 2.0, 7.5, 0.5, 0.25, -1.0, -3.0, 1.0]
_ANSWER = {"model_name": "lstm", "model_version": "2"}
_OUTPUT = {"name": "logits", "datatype": "FP32", "shape": [1, 10]}
_PIXELS = b" " * 784
_AS_TEXT = "Each character stands for one byte, by its number."


def _head(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_REQUEST_HEAD = _head(
    {
        "inputs": [{**_IMAGE, "parameters": {"binary_data_size": len(_PIXELS)}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
)
_ANSWER_HEAD = _head(_ANSWER | {"outputs": [{**_OUTPUT, "parameters": {"binary_data_size": 4 * len(_LOGITS)}}]})


def _binary(about: str, head: bytes, tensor: bytes) -> dict[str, str]:
    length = f" Header {HEAD_LENGTH}: {len(head)}."
    return {"summary": about + length, "description": _AS_TEXT, "value": (head + tensor).decode("latin-1")}


REQUEST = {
    "required": True,
    "content": {
        "application/json": {
            "schema": reference("InferRequest"),
            "examples": {
                "one image": {"value": {"inputs": [{**_IMAGE, "data": [0] * 784}], "outputs": [{"name": "logits"}]}}
            },
        },
        "application/octet-stream": {
            "schema": {
                **BINARY_SCHEMA,
                "description": f"JSON, whose length is in {HEAD_LENGTH}, and the binary tensors. With a length of 0 "
                "the body is the model's only input.",
            },
            "examples": {
                "one image": _binary("JSON, and the image after it.", _REQUEST_HEAD, _PIXELS),
                "only the image": _binary("The image alone.", b"", _PIXELS),
            },
        },
    },
}
RESPONSE = {
    "application/json": {
        "schema": reference("InferResponse"),
        "example": _ANSWER | {"outputs": [{**_OUTPUT, "data": _LOGITS}]},
    },
    "application/octet-stream": {
        "schema": {
            **BINARY_SCHEMA,
            "description": f"JSON, whose length is in {HEAD_LENGTH}, and the outputs that the request wants as binary "
            "data, little-endian, in the order of the JSON.",
        },
        "examples": {
            "logits": _binary("JSON, and ten numbers after it.", _ANSWER_HEAD, struct.pack("<10f", *_LOGITS)),
        },
    },
}
PARAMETERS = (
    {
        "name": HEAD_LENGTH,
        "in": "header",
        "description": "The length of the body's JSON in bytes, where binary tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
        "examples": {
            "JSON and binary tensors": {"value": len(_REQUEST_HEAD)},
            "only one tensor": {"value": 0},
        },
    },
    CONTENT_ENCODING,
    _ACCEPT_ENCODING,
)
HEADERS = {
    HEAD_LENGTH: "The length of the JSON, where binary tensors follow it.",
    "Content-Encoding": "gzip or deflate, where the answer is compressed.",
}
