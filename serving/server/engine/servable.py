"""What the engine and the transports need of a name that serves: of a model's version, and of a route."""

from collections.abc import Hashable, Mapping
from typing import Protocol, TypeAlias

from hangtag.serving.server.batching.call import Call, Tensors
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics
from hangtag.serving.server.telemetry.server_state import VersionState
from hangtag.serving.signature import Signature

Admission: TypeAlias = tuple[int, Hashable]
"""What a request's check returns: its number of samples, and its batch key (see ``validation.batch_key``)."""


class Servable(Protocol):
    """One version of a name that takes requests, between ``start`` and ``close``."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def signature(self) -> Signature: ...

    @property
    def statistics(self) -> ModelStatistics: ...

    @property
    def max_batch_size(self) -> int:
        """The most samples of one request."""

    @property
    def instances(self) -> int:
        """Number of batches that may be computed at once."""

    @property
    def queued(self) -> int:
        """Number of requests that wait."""

    @property
    def computing(self) -> int:
        """Number of batches that are being computed."""

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU computes."""

    @property
    def max_queue_delay(self) -> float:
        """Seconds that a request may be held back to fill a batch."""

    def share_processors(self, shared: bool) -> None:
        """Compute no batch with more threads, although nothing else waits, until each caller has taken that back.

        For a model that gets copies: they are computed whenever nothing else is, and all threads together would take
        the processors from the calls that come meanwhile.

        Args:
            shared: True for the first call of a caller, False for its second one.
        """

    def start(self, pool: ComputePool) -> None:
        """Take calls from now on. pool: computes their batches."""

    def require_place(self) -> None:
        """Raise QueueFullError where it is certain, before a request is decoded, that its queue is full."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> Admission:
        """Return a request's number of samples and its batch key. Both depend on shapes and datatypes alone.

        Args:
            inputs: An array for each input of the signature.
            datatypes: The protocol's datatype of each input, for example "FP32".

        Raises:
            InvalidRequestError: The request does not fit.
        """

    def put(self, call: Call) -> None:
        """Queue a call that ``check`` has admitted. When this raises, the call gets no outcome here.

        Raises:
            QueueFullError: The queue is full.
            DeadlineError: The answer would miss the deadline.
            UnavailableError: It is closed.
        """

    def state(self) -> VersionState:
        """Return what it is and has done, for the index, the statistics and the metrics."""

    def parameters(self) -> Mapping[str, str]:
        """Return what ModelConfig says of it beside its signature."""

    def close(self) -> None:
        """Finish what is queued, and end."""
