"""The interfaces that the transports need: a served version of a model or of a route, and the control of models."""

from collections.abc import Hashable, Mapping
from typing import Protocol

from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.queue.call import Call, Tensors
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics
from hangtag.serving.server.telemetry.server_state import ServerState, VersionState
from hangtag.serving.signature import Signature


class Servable(Protocol):
    """A version of a model, or a route, that accepts requests after ``start``."""

    name: str
    version: str
    signature: Signature
    statistics: ModelStatistics
    max_batch_size: int
    """The maximum number of samples in one request."""
    instances: int
    """Number of batches that may be computed at the same time."""
    on_cpu: bool
    max_queue_delay: float
    """How many seconds a request may be held back to fill a batch."""

    @property
    def busy(self) -> bool:
        """Whether requests wait, or at least half of the instances of a model are busy."""

    def start(self, pool: ComputePool) -> None:
        """Accept calls from now on. ``pool`` computes their batches."""

    def raise_if_queue_full(self) -> None:
        """Raise QueueFullError if the queue is known to be full before the request is decoded."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> tuple[int, Hashable]:
        """Return a request's number of samples and its `Call.batch_key`. Both depend only on the inputs' shapes and
        ``datatypes``. Raises InvalidRequestError if the request does not match the signature."""

    def put(self, call: Call) -> None:
        """Queue a call that ``check`` has admitted. If this method raises an error, the call has no outcome yet.

        Raises:
            QueueFullError: The queue is full.
            DeadlineError: The answer would miss the deadline.
            UnavailableError: The model or route is closed.
        """

    def state(self) -> VersionState: ...

    def parameters(self) -> Mapping[str, str]:
        """Return the parameters of ModelConfig that do not follow from the signature."""


class Control(Protocol):
    """Loads and unloads models on request, in this process or in all workers."""

    def load(self, name: str) -> None:
        """Load the versions of a model that are to be served, even if they are loaded already. Raises NotFoundError if
        the repository has no such model, UnavailableError if the server is stopping, and ControlError if loading on
        request is off, or a version cannot be loaded. After an error, the earlier versions serve as before."""

    def unload(self, name: str) -> None:
        """Take a model out of service. Raises NotFoundError if no such model is served, and otherwise the errors of
        ``load``."""

    def state(self) -> ServerState: ...

    def published(self) -> list[tuple[str, str]]:
        """List each readable model and route of the repository, by name, with the version that should serve."""
