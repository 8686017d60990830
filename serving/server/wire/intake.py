"""The steps of every call on any transport: authentication, the limit of a message's size, the threads that decode, the
count of failures, and tracing."""

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog

from hangtag.extras import needs
from hangtag.serving.server import errors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Control
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes
from hangtag.serving.server.telemetry.log import redirect_library_log
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.wire.model_queries import ModelService
from hangtag.serving.server.wire.status import status

log = structlog.get_logger()

Metadata = Iterable[tuple[str, str | bytes]]
MIN_LENGTH = 16  # the least number of characters of a token
_CREDENTIALS = re.compile("bearer +(.*)", re.IGNORECASE | re.DOTALL)  # RFC 9110, 11.4
# OpenTelemetry's conventions for RPC: a server's span is an error only for codes that are the server's fault.
_SERVER_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


class Origin(NamedTuple):
    """What a transport knows about a call before it has read a request. A streaming call may have several requests."""

    method: str
    """/package.Service/Method, or an HTTP method and its route; empty if no model is called."""
    metadata: Metadata = ()
    """What the caller sent, such as the trace to continue, or the key by which a split chooses a member."""
    deadline: float | None = None
    """The deadline in seconds on the monotonic clock."""


class Intake:
    """The checks that every transport makes before a request reaches the engine. All methods are thread-safe.

    The token file has one token per line. Lines that start with # are comments. With an empty file no token is valid.
    If the file disappears or becomes malformed, the tokens that were last read stay valid.
    """

    def __init__(self, engine: Engine, control: Control) -> None:
        """``control`` controls and describes the models of all workers. Raises StartError if the tokens are invalid,
        and MissingExtraError if packages for tracing are not installed."""
        config, limits = engine.config, engine.config.limits
        self.engine = engine
        self.models = ModelService(engine, control)
        self.decoding_places = threading.Semaphore(config.max_queue_size)
        """Limits how many requests wait for a decoding thread. These requests are not yet in a model's queue."""
        self.decoding_threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        """Decode pictures and large messages, so that decoding does not block the threads that receive calls."""
        self.threads_for_large = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode-large")
        """These threads decode large pictures, and may wait for memory. Other threads decode the other requests."""
        self._digests: WatchedFiles[tuple[bytes, ...]] | None = None
        if (file := config.token_file) is not None:
            self._digests = WatchedFiles("tokens", [file], lambda: _digests_of(file), limits.file_check_seconds)
        self.stopping = False
        """Whether every new query of a model is refused."""
        self.all_admitted = self._digests is None
        """Whether every request is admitted without a check."""
        endpoint = config.otlp_endpoint
        self.tracing = Tracing(endpoint, limits.trace_close_seconds) if endpoint else None
        self.max_message_bytes = config.max_message_mib << 20

    def close(self) -> None:
        """Drop work that waits for a decoding thread, end the threads, and send the remaining spans."""
        self.decoding_threads.shutdown(cancel_futures=True)
        self.threads_for_large.shutdown(cancel_futures=True)
        self.models.close()
        if self.tracing is not None:
            self.tracing.close()

    def admit(self, metadata: Metadata, *, queries: bool = True) -> None:
        """Check a call, unless it is a health check. Raise UnauthenticatedError unless the metadata has
        ``authorization: Bearer <a valid token>``, and UnavailableError if the call queries a model during a stop. The
        thread that polls for calls runs this method, so it must not block."""
        if self._digests is not None:  # with a token file, which is read again when it changes
            header = next((value for key, value in metadata if key == "authorization"), None)
            credentials = _CREDENTIALS.fullmatch(header) if isinstance(header, str) else None
            if credentials is None:
                raise errors.UnauthenticatedError(
                    "this server requires a token: send 'authorization: Bearer <token>' with each call, in gRPC's "
                    "metadata or HTTP's headers (--token-file of hangtag's commands)"
                )
            digest = hashlib.sha256(credentials[1].encode(errors="surrogatepass")).digest()
            # All digests are equally long, and each is compared, so the time taken reveals nothing about valid tokens.
            if not sum([hmac.compare_digest(digest, known) for known in self._digests.current()]):
                raise errors.UnauthenticatedError("the token is not valid; ask the server's operator for a valid token")
        if self.stopping and queries:
            raise errors.UnavailableError(errors.STOPPING)

    def refuse_new(self) -> None:
        """Admit no further query. Queries in flight are still answered."""
        self.stopping, self.all_admitted = True, False

    def require_size(self, direction: str, size: int) -> None:
        """Raise MessageTooLargeError, worded as in gRPC's core, if a message ("Sent" or "Received") is too large."""
        if size > (limit := self.max_message_bytes):
            raise errors.MessageTooLargeError(f"SERVER: {direction} message larger than max ({size} vs. {limit})")

    def record_failure(
        self, origin: Origin, error: Exception, started: int | None = None, name: str = "", version: str = ""
    ) -> None:
        """Count a failed request under its status code, and record its span. ``started`` is the time.perf_counter_ns at
        which the request arrived; None means now. The name and the version are empty if the request was not read."""
        code = status(error).grpc
        ns = 0 if started is None else time.perf_counter_ns() - started
        self.engine.record_failure(name, version, code.name, ns, shed=isinstance(error, errors.QueueFullError))
        if self.tracing is not None and origin.method:
            self.tracing.record(origin.method, origin.metadata, ns, code)


def _digests_of(path: Path) -> tuple[bytes, ...]:
    lines = [line.strip() for line in read_bytes(path, "--token-file").splitlines()]
    tokens = [line for line in lines if line and not line.startswith(b"#")]
    for number, token in enumerate(tokens, 1):
        if len(token) < MIN_LENGTH or len(token.split()) > 1 or not token.isascii():
            raise errors.StartError(
                f"{path} (--token-file): token {number} is too short, or is not a single ASCII word; each line "
                f"needs one token of at least {MIN_LENGTH} characters ('openssl rand -hex 32' makes one)"
            )
    return tuple(hashlib.sha256(token).digest() for token in tokens)


class Tracing:
    """Sends OpenTelemetry spans of queries to a collector, as children of the caller's span (W3C's traceparent in the
    metadata). Thread-safe.

    A query's span is created when the query has ended, from times that are measured anyway. Its child spans are the
    queue and the computation. W3C's tracestate and baggage may hold any text of the caller, so they are not read.
    """

    def __init__(self, endpoint: str, close_seconds: float) -> None:
        """Send spans to an OTLP collector. ``close`` takes at most ``close_seconds``. Raises MissingExtraError."""
        with needs("otel", "--otlp-endpoint"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Logging values is safe, because only OpenTelemetry's exporter logs, and it never logs the traceparent.
        redirect_library_log("opentelemetry", with_values=True)
        resource = Resource({SERVICE_NAME: "hangtag"}).merge(OTELResourceDetector().detect())
        self._close_seconds = close_seconds
        # OTEL_TRACES_SAMPLER determines the sampling
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hangtag")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self, method: str, metadata: Metadata, duration_ns: int, code: grpc.StatusCode, timings: Timings | None = None
    ) -> None:
        """Record a query that ended just now, ``duration_ns`` after its arrival. A failed query has no ``timings``."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        ended_ns = time.time_ns()
        parents = {key: value for key, value in metadata if key == "traceparent" and isinstance(value, str)}
        context = self._propagator.extract(parents)
        attributes = _attributes(method, code)
        if timings is not None:
            attributes["hangtag.batch_size"] = timings.batch_size
        name, started_ns = method.removeprefix("/"), ended_ns - duration_ns
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes, start_time=started_ns)
        if code.name in _SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR, code.name))
        if span.is_recording() and timings is not None:
            parent = set_span_in_context(span)
            compute_start = ended_ns - timings.compute_ns  # the answer is sent as soon as it is computed
            queue_start = compute_start - timings.queue_ns
            for name, start, end in (("queue", queue_start, compute_start), ("compute", compute_start, ended_ns)):
                self._tracer.start_span(name, parent, start_time=start).end(end)
        span.end(ended_ns)

    def close(self) -> None:
        """Send the remaining spans, within ``close_seconds``. The exporter itself would try for much longer."""
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(self._close_seconds)
        if sending.is_alive():
            log.warning("the last spans are lost: the collector did not accept them", seconds=self._close_seconds)


def _attributes(method: str, code: grpc.StatusCode) -> dict[str, str | int]:
    """Follow OpenTelemetry's conventions for RPC and for HTTP."""
    if not method.startswith("/"):
        verb, _, route = method.partition(" ")
        return {"http.request.method": verb, "http.route": route, "hangtag.status": code.name}
    service, _, name = method.removeprefix("/").partition("/")
    number: int = code.value[0]
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name, "rpc.grpc.status_code": number}
