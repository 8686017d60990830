"""Train image classifiers, export them to ONNX, serve them over gRPC and HTTP, and call the server.

``from hangtag import Client`` is what a caller of a server needs; these names load on first use, so that
``import hangtag`` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hangtag.errors import UserError

if TYPE_CHECKING:
    from hangtag.serving.client import (
        AsyncClient,
        Classification,
        Client,
        ClientError,
        ConnectionOptions,
        Credentials,
        CredentialsError,
        InferenceStage,
        Label,
        Outputs,
    )

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "ClientError",
    "ConnectionOptions",
    "Credentials",
    "CredentialsError",
    "InferenceStage",
    "Label",
    "Outputs",
    "UserError",
]

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("hangtag.serving.client"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
