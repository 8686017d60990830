"""Puts the OpenAPI 3.1 description together."""

from importlib import metadata
from typing import Any

from hangtag.serving.server.transport.http.openapi.operations import PATHS
from hangtag.serving.server.transport.http.openapi.schemas import ERRORS, SCHEMAS

_ABOUT = (
    "The Open Inference Protocol over REST, with its binary tensor extension, as Triton and KServe speak it, and the "
    "classification of image files. Each request has a counterpart in gRPC, which gives the same answers."
)


def description() -> dict[str, Any]:
    """Return the description as JSON's values."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "hangtag", "version": metadata.version("hangtag"), "description": _ABOUT},
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "responses": ERRORS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Where the server has --token-file."}
            },
        },
        "security": [{}, {"token": []}],
    }
