"""What the engine and the transports need of a name that serves: of a model's version, and of a route."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol, TypeAlias

from hangtag.serving.server.batching.batcher import Batcher
from hangtag.serving.server.batching.request import OnComplete, QueuedRequest, Tensors
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics
from hangtag.serving.server.telemetry.server_state import VersionState
from hangtag.serving.signature import Signature

Admission: TypeAlias = tuple[int, Hashable]
"""What a request's check returns: its number of samples, and its batch key (see ``validation.batch_key``)."""
Cancel: TypeAlias = Callable[[], None]
"""Drops a request, whose outcome is then an error; does nothing once it has ended."""


class Computer(Protocol):
    """What batches are taken from and computed by: a version of a model."""

    @property
    def batcher(self) -> Batcher: ...

    def execute(self, batch: list[QueuedRequest]) -> None:
        """Compute a batch that ``batcher.take`` returned, and complete its requests. Never raises."""


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

    @property
    def computers(self) -> Sequence[Computer]:
        """The models one of whose queues a request is put into first."""

    def share_processors(self, shared: bool) -> None:
        """Compute no batch with more threads, although nothing else waits, until each caller has taken that back.

        For a model that gets copies: they are computed whenever nothing else is, and all threads together would take
        the processors from the calls that come meanwhile.

        Args:
            shared: True for the first call of a caller, False for its second one.
        """

    def start(self) -> None:
        """Take requests from now on."""

    def require_place(self) -> None:
        """Raise QueueFullError where it is certain, before a request is decoded, that its queue is full."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> Admission:
        """Return a request's number of samples and its batch key. Both depend on shapes and datatypes alone.

        Raises:
            InvalidRequestError: The request does not fit.
        """

    def submit(
        self,
        inputs: Tensors,
        datatypes: Mapping[str, str],
        on_complete: OnComplete,
        deadline: float | None = None,
        *,
        admission: Admission | None = None,
        wake: bool = True,
        key: Callable[[str], str] | None = None,
    ) -> Cancel:
        """Check a request and queue it. When this raises, on_complete is not called.

        Args:
            inputs: An array for each input of the signature.
            datatypes: The protocol's datatype of each input, for example "FP32".
            on_complete: Receives the result or the error, from another thread.
            deadline: Seconds on the monotonic clock; None for no deadline.
            admission: What ``check`` returned for these shapes and datatypes before; None: they are checked now.
            wake: Wake a thread that computes (see ``Batcher.put``). A caller that passes False takes a batch from
                ``computers`` itself.
            key: Returns the value of one of the call's metadata keys, empty where the call has none; for a route that
                sends calls with one value to one member.

        Raises:
            InvalidRequestError: The request does not fit.
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
