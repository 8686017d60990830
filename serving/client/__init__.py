"""The typed clients of the server, and the commands ``classify``, ``top``, ``health`` and ``models load``.

Its public names load on first use, because `hangtag health` must not load numpy and the protocol's messages.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hangtag.serving.client.async_client import AsyncClient
    from hangtag.serving.client.classification import Classification, Label
    from hangtag.serving.client.client import Client
    from hangtag.serving.client.outputs import InferenceStage, Outputs
    from hangtag.serving.connection.errors import ClientError
    from hangtag.serving.connection.options import ConnectionOptions
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
]

_MODULES = {
    "AsyncClient": "hangtag.serving.client.async_client",
    "Classification": "hangtag.serving.client.classification",
    "Client": "hangtag.serving.client.client",
    "ClientError": "hangtag.serving.connection.errors",
    "ConnectionOptions": "hangtag.serving.connection.options",
    "Credentials": "hangtag.serving.credentials",
    "CredentialsError": "hangtag.serving.credentials",
    "InferenceStage": "hangtag.serving.client.outputs",
    "Label": "hangtag.serving.client.classification",
    "Outputs": "hangtag.serving.client.outputs",
}

if not TYPE_CHECKING:  # a type checker that saw __getattr__ would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)
