"""Train image classifiers, export them to ONNX, serve them over gRPC and HTTP, and call the server.

``from hangtag import Client`` is all that a program needs to call a server. The exported names are imported on first
use, so that ``import hangtag`` is fast. So ``hangtag health``, which containers run often, imports neither numpy nor
the protocol's messages.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hangtag.errors import UserError

if TYPE_CHECKING:
    from hangtag.serving.client.client import AsyncClient, Client
    from hangtag.serving.client.messages import Classification, InferenceStage, Label, Outputs
    from hangtag.serving.connection.client_options import ConnectionOptions
    from hangtag.serving.connection.errors import ClientError
    from hangtag.serving.credentials import Credentials, CredentialsError

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

_MODULES = {
    "AsyncClient": "client.client",
    "Classification": "client.messages",
    "Client": "client.client",
    "ClientError": "connection.errors",
    "ConnectionOptions": "connection.client_options",
    "Credentials": "credentials",
    "CredentialsError": "credentials",
    "InferenceStage": "client.messages",
    "Label": "client.messages",
    "Outputs": "client.messages",
}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"hangtag.serving.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
