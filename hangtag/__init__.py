"""Train image classifiers, export them to ONNX, serve them over gRPC and HTTP, and call the server.

``from hangtag import Client`` is all that a program needs to call a server. The exported names are imported on first
use, so that ``import hangtag`` is fast. Therefore ``hangtag health``, which containers run often, imports neither numpy
nor the protocol's messages.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hangtag.errors import UserError as UserError

if TYPE_CHECKING:
    from hangtag.serving.client.client import AsyncClient as AsyncClient
    from hangtag.serving.client.client import Client as Client
    from hangtag.serving.client.messages import Classification as Classification
    from hangtag.serving.client.messages import InferenceStage as InferenceStage
    from hangtag.serving.client.messages import Label as Label
    from hangtag.serving.client.messages import Outputs as Outputs
    from hangtag.serving.connection.client_options import ConnectionOptions as ConnectionOptions
    from hangtag.serving.connection.errors import ClientError as ClientError
    from hangtag.serving.credentials import Credentials as Credentials
    from hangtag.serving.credentials import CredentialsError as CredentialsError

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
    __all__ = [*_MODULES, "UserError"]

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"hangtag.serving.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
