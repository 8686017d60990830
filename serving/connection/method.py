"""A method of a gRPC service: the vocabulary in which every connection is asked for a call."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar


class Message(Protocol):
    """What a connection needs to know of a protocol buffer's class."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the message in its wire format."""

    @classmethod
    def FromString(cls, s: bytes) -> Self:  # noqa: N802 - protobuf's name
        """Read a message from its wire format."""


CONTROL = (
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
)
"""Methods that no connection repeats by itself: where only the first answer was lost, a second unload would fail, and a
second load repeat the work."""
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Response]):
    """A method by its full name.

    Attributes:
        path: ``/package.Service/Method``.
        response: the class of its responses.
    """

    path: str
    response: type[Response]

    @property
    def service(self) -> str:
        """``package.Service``."""
        return self.path[1:].partition("/")[0]

    @property
    def repeatable(self) -> bool:
        """Whether a call may be made again where nothing says whether the server has executed it."""
        return self.path not in CONTROL

    def serialise(self, request: Any) -> bytes:
        """Return a request in its wire format."""
        data: bytes = request.SerializeToString()
        return data
