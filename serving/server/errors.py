"""The server's errors. They know no transport; transport/status.py maps them to the codes of gRPC and HTTP.

    ServerError
    ├── InvalidRequestError     the request does not fit the model: names, datatypes, shapes, contents
    │   └── UnsupportedEncodingError  ... its body is compressed in a way that the server does not read
    ├── NotFoundError           no such model, or no such version of it
    │   └── NothingToUnloadError  ... which is to be unloaded
    ├── MessageTooLargeError    the request or the response is larger than --max-message-mib
    ├── QueueFullError          as many requests wait, or take as much memory, as they may; nothing was started
    ├── DeadlineError           the client's deadline passed, or would pass, before the answer was computed
    ├── CancelledError          the client cancelled
    ├── UnavailableError        the models are being loaded, or the server is stopping
    ├── ControlError            a model cannot be loaded or unloaded by call
    ├── UnauthenticatedError    the call has no token, or one that is not valid here
    │   └── ForeignOriginError  ... a page of another site sends it
    ├── InferenceError          ONNX Runtime failed on a batch
    │   └── InvalidValuesError  ... because of values in the request's tensors
    └── StartError              the server cannot start with these settings
        ├── RepositoryError     the model repository is missing, empty or malformed
        └── ModelLoadError      a model's file cannot be loaded

Every message says what was wrong, what was expected, and what to do.
"""

STOPPING = "the server is stopping and takes no new requests; try another replica"
"""Message of the UnavailableError that each layer raises while the server drains."""


class ServerError(Exception):
    """Base of every exception that the server raises on purpose. Any other exception is a bug of the server."""


class InvalidRequestError(ServerError):
    """The request does not fit the model it names."""


class UnsupportedEncodingError(InvalidRequestError):
    """The body has a Content-Encoding that the server does not read."""


class NotFoundError(ServerError):
    """The model, or the version of it, is not served here."""


class NothingToUnloadError(NotFoundError):
    """The model that should be unloaded is not served."""


class MessageTooLargeError(ServerError):
    """The request or the response is larger than the server takes or sends."""


class QueueFullError(ServerError):
    """The model's queue is full, or requests take all that they may in common."""


class DeadlineError(ServerError):
    """The deadline passed, or would pass, before the answer was computed."""


class CancelledError(ServerError):
    """The client cancelled before the answer was computed."""


class UnavailableError(ServerError):
    """The model takes no requests now: it is being loaded, or the server is stopping."""


class ControlError(ServerError):
    """A model cannot be loaded or unloaded by call; the models that served before still serve."""


class UnauthenticatedError(ServerError):
    """The call does not prove that its client may call."""


class ForeignOriginError(UnauthenticatedError):
    """A page of another site asks a browser to change what the server serves, or the Host is no name of this server."""


class InferenceError(ServerError):
    """ONNX Runtime failed on a batch that had passed every check."""


class InvalidValuesError(InferenceError):
    """ONNX Runtime rejects values in the request, such as an index out of range; other requests are not affected."""


class StartError(ServerError):
    """The server cannot start with these settings."""


class RepositoryError(StartError):
    """The folder cannot be read as a model repository."""


class ModelLoadError(StartError):
    """A model's file cannot be loaded, or not with the execution provider that the settings require."""
