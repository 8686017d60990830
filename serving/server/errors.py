"""What the server can refuse or fail at. Nothing here knows of gRPC; transport/status.py maps each to a status code.

    ServerError
    ├── InvalidRequestError     the request does not fit the model: names, datatypes, shapes, contents
    ├── NotFoundError           no such model, or no such version of it
    ├── QueueFullError          more is waiting than the queue holds; nothing was started
    ├── DeadlineError           the caller's deadline passed before the answer was computed
    ├── CancelledError          the caller went away
    ├── UnavailableError        loading, or stopping
    ├── ControlError            models cannot be loaded or unloaded as asked
    ├── UnauthenticatedError    no token, or one that is not valid here
    ├── InferenceError          ONNX Runtime failed on a batch
    │   └── InvalidValuesError  ... because of values that the request has in its tensors
    └── StartError              the server cannot start as asked
        ├── RepositoryError     the model repository is missing, empty or malformed
        └── ModelLoadError      a model's file cannot be loaded

Every message says what was wrong, what was expected, and what to do.
"""


class ServerError(Exception):
    """Base of everything that the server raises on purpose."""


class InvalidRequestError(ServerError):
    """The request does not fit the model it names."""


class NotFoundError(ServerError):
    """The model, or the version of it, is not served here."""


class QueueFullError(ServerError):
    """The model's queue is full."""


class DeadlineError(ServerError):
    """The deadline passed before the answer was computed."""


class CancelledError(ServerError):
    """The caller cancelled before the answer was computed."""


class UnavailableError(ServerError):
    """The model does not take requests now: it is being loaded, or the server is stopping."""


class ControlError(ServerError):
    """Models cannot be loaded or unloaded as the caller asked; what served before serves on."""


class UnauthenticatedError(ServerError):
    """The call does not prove that its caller may call."""


class InferenceError(ServerError):
    """ONNX Runtime failed on a batch that had passed every check."""


class InvalidValuesError(InferenceError):
    """ONNX Runtime cannot compute what is in the request, an index out of range for one, and goes on with others."""


class StartError(ServerError):
    """The server cannot start as it was asked to."""


class RepositoryError(StartError):
    """The model repository cannot be read as one."""


class ModelLoadError(StartError):
    """A model's file cannot be loaded, or not with the execution provider that was asked for."""
