"""A call: what a transport knows of it before it has read a query, and how its failures are counted and traced."""

import time
from collections.abc import Callable, Iterator

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import QueueFullError
from hangtag.serving.server.transport.status import status_code
from hangtag.serving.server.transport.tracing import Metadata, Tracing


class LazyMetadata:
    """A call's metadata, read when something iterates over it: most calls are answered without."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Metadata]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._read())


class Call:
    """The call that a query is a part of: a unary call has one query, streams and comparisons have several."""

    __slots__ = ("metadata", "method", "tracing")

    def __init__(self, method: str, metadata: Metadata = (), tracing: Tracing | None = None) -> None:
        """Describe a call.

        Args:
            method: /package.Service/Method, or an HTTP method and its route.
            metadata: What the caller sent; a trace continues from its ``traceparent``, and a route may go by one key.
            tracing: Gets a span for each query; None records none.
        """
        self.method = method
        self.metadata = metadata
        self.tracing = tracing


def record_failure(
    engine: Engine, call: Call, error: Exception, started: int, name: str = "", version: str = ""
) -> None:
    """Count a failed request under its status code, and record its span: the one place where transports do so.

    Args:
        engine: Keeps the counters.
        call: What brought the request.
        error: What the request failed with.
        started: When it came, by time.perf_counter_ns.
        name: The model's name as the caller sent it; empty for a request that was refused before it was read.
        version: The model's version, likewise.
    """
    code = status_code(error)
    ns = time.perf_counter_ns() - started
    engine.record_failure(name, version, code.name, ns, shed=isinstance(error, QueueFullError))
    if call.tracing is not None:
        call.tracing.record(call.method, call.metadata, ns, code)


class failures_recorded:  # noqa: N801 - a context manager, in a class because a generator takes longer
    """Count and trace an error that is raised inside, before there is a query that names a model."""

    __slots__ = ("_call", "_engine", "_started")

    def __init__(self, engine: Engine, call: Call) -> None:
        self._engine = engine
        self._call = call

    def __enter__(self) -> None:
        self._started = time.perf_counter_ns()

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception):
            record_failure(self._engine, self._call, error, self._started)
