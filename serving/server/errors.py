"""The server's errors, which do not depend on a transport; wire/status.py maps them to the codes of gRPC and HTTP.
Every message says what was wrong, what was expected, and what to do."""

from hangtag.errors import UserError

STOPPING = "the server is stopping and takes no new requests; try another replica"
"""Message of the UnavailableError that each layer raises while the server drains."""


class ServerError(Exception):
    """Base of every exception that the server raises on purpose. Any other exception is a bug in the server."""


class InvalidRequestError(ServerError):
    """The request's names, datatypes, shapes or contents do not match the model."""


class UnsupportedEncodingError(InvalidRequestError):
    """The request's body has a Content-Encoding that the server does not support."""


class NotFoundError(ServerError):
    """The server does not serve the model or the version."""


class NothingToUnloadError(NotFoundError):
    """The model to unload is not served."""


class MessageTooLargeError(ServerError):
    """The request or the response is larger than --max-message-mib."""


class QueueFullError(ServerError):
    """The model's queue is full, or all requests together have reached a limit."""


class DeadlineError(ServerError):
    """The deadline passed, or would pass, before the answer was computed."""


class CancelledError(ServerError):
    """The client cancelled before the answer was computed."""


class UnavailableError(ServerError):
    """The model accepts no requests now, because the model is being loaded or the server is stopping."""


class NotLoadedError(UnavailableError):
    """The model is loaded only on its first call. Callers that can wait should wait until it is loaded."""


class ControlError(ServerError):
    """The model could not be loaded or unloaded on request; the models that were serving still serve."""


class UnauthenticatedError(ServerError):
    """The call has no valid credentials."""


class ForeignOriginError(UnauthenticatedError):
    """A web page of another site tries to change what the server serves, or the Host header names another host."""


class InferenceError(ServerError):
    """ONNX Runtime failed on a batch that had passed every check."""


class InvalidValuesError(InferenceError):
    """ONNX Runtime rejects values in the request, such as an index out of range; other requests are not affected."""


class StartError(ServerError, UserError):
    """The server cannot start with these settings."""


class ModelLoadError(StartError):
    """A model's file cannot be loaded, or the execution provider that the settings require cannot load it."""
