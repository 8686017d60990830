"""A gRPC method, which is the first argument of a connection's functions `call` and `stream`, even over HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from hangtag.protos import methods

CONTROL = (methods.MODEL_LOAD, methods.MODEL_UNLOAD)
"""Methods that a connection never retries. If the server executed the call and only its answer was lost, a
second unload would fail, and a second load would repeat the work."""
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Response]):
    """A method, with its ``path`` (``/package.Service/Method``) and the class of its responses.

    HTTP has no streams: over HTTP, each request of a streaming method is a call of the unary method ``single``.
    """

    path: str
    response: type[Response]
    single: "Method[Any] | None" = None


def keep_costs(response: Any, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Copy the ``hangtag-*`` metadata (over HTTP, headers) of a ModelInfer response into the response's parameters.

    The metadata says which models answered, and how long they took. In a stream, the server sets the parameters itself.
    """
    if type(response).__name__ == "ModelInferResponse":  # health checks do not import this class
        for key, value in metadata:
            if key.startswith("hangtag-") and isinstance(value, str):
                response.parameters[key.replace("-", "_")].string_param = value
