"""The native server: ModelInfer and Classify over pygrpc-native; a gRPC server behind it answers every other method.

The library's Rust threads speak HTTP/2 and never hold the interpreter lock. The threads pass calls of the two methods
to Python as events, and forward every other call over a private Unix socket to a `GrpcServer`.

The library has neither TLS nor limits on connections, and reads a message of any size before hangtag can refuse the
message. Therefore clients connect to it directly only if all of them are trusted. If not, Envoy is in front.
docs/reference/limits.md also describes the library's limit on cancelled calls. `AioConnection._reset` in
`serving/connection/grpc_connection.py` keeps hangtag's clients below this limit.

A ModelInfer call whose head has a `Plan` is queued at once, and all such calls of a batch are answered in one loop.
`submit`, which is slower, puts all other calls into the same queue.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from hangtag.protos import classifier_pb2
from hangtag.protos.methods import CLASSIFY, MODEL_INFER
from hangtag.serving.server.errors import InvalidRequestError, MessageTooLargeError, ServerError, StartError
from hangtag.serving.server.host.ports import GRPC, GRPC_SOCKET, GRPCIO_SOCKET, bind
from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.transport.grpc.grpc_server import GrpcServer
from hangtag.serving.server.wire.codec import parse_message, serialized, submit_infer
from hangtag.serving.server.wire.image_query import classify_query
from hangtag.serving.server.wire.intake import Intake
from hangtag.serving.server.wire.plans import Plans
from hangtag.serving.server.wire.status import BATCH_SIZE, COMPUTE_NS, QUEUE_NS, call_status, cost_metadata
from hangtag.serving.server.wire.transport_call import TransportCall, submit_on_thread

log = structlog.get_logger()

_METHODS = (MODEL_INFER, CLASSIFY)
"""The methods that this transport serves. The library identifies a method by its index in this list."""
_INFER_ID = _METHODS.index(MODEL_INFER)
_MAX_EVENTS = 256  # the most events that are taken from the library at a time
_TIMEOUT_HEADER = "grpc-timeout"
"""The library reads a call's deadline from this header. In the call's event, ``key`` is the header's value (bytes) or,
without the header, the caller's address (str). If the library cannot parse the value, the call has no deadline."""
_IO_THREADS = 1  # suffices for the answers of two computing threads
_MAX_METADATA_BYTES = 16 * 1024  # gRPC's core has the same limit
_MAX_SOCKET_PATH = 107  # bytes; the size of Linux' sockaddr_un.sun_path without the final zero


class NativeServer(GrpcServer):
    """A `GrpcServer` on a private socket, and the library in front of it."""

    def __init__(self, intake: Intake) -> None:
        super().__init__(intake)
        self.intake = intake
        self.front: NativeGrpcFront  # since `start`
        self.open: dict[int, NativeCall] = {}
        """The calls that have not ended, by the library's number for the call."""
        self._plans = Plans()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def start(self) -> int:
        """See `GrpcServer.start`. Also raises StartError if the path TMPDIR is too long."""
        config = self._engine.config
        if config.behind is None and config.workers == 1:  # workers share a port that their supervisor has reserved
            bind(config.host, config.port, GRPC).close()  # raises a clear error if the port is taken
        folder = config.behind
        if folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hangtag-")  # only this user may enter the folder
            folder = Path(self._folder.name)
        socket = str(folder / GRPCIO_SOCKET)
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            raise StartError(
                f"the folder for temporary files has a path that is too long for a Unix socket ({socket}): set TMPDIR "
                "to a shorter path, or use --transport grpc"
            )
        front = NativeGrpcFront(
            config.address(config.port) if config.behind is None else f"unix:{config.behind / GRPC_SOCKET}",
            [(method, False) for method in _METHODS],
            io_threads=_IO_THREADS,
            client_key_metadata=_TIMEOUT_HEADER,
            call_details=True,
            keepalive_time_ms=round(config.keepalive_seconds * 1000),
            keepalive_timeout_ms=round(config.limits.peer_seconds * 1000),
            max_concurrent_streams=config.max_concurrent_streams,
            max_metadata_size=_MAX_METADATA_BYTES,
            reuse_port=config.behind is None and config.workers > 1,
        )
        await self._listen(f"unix:{socket}")
        front.set_fallback(socket)
        front.start()
        self.front = front
        self._engine.pool.receive_from(self._receive)
        return front.bound_port

    async def stop(self, grace: float) -> None:
        await super().stop(grace)
        for call in list(self.open.values()):
            call.cancel()

    def close(self) -> None:
        if hasattr(self, "front"):
            self.front.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _answers(self) -> bool:
        return bool(self.open) or super()._answers()

    def _receive(self, milliseconds: int | None) -> bool:
        """Take the events that have arrived, and queue their calls (see `compute_pool.Receive`)."""
        events = self.front.recv_batch_details(_MAX_EVENTS, milliseconds)
        if events is None:
            return False
        intake, now, arrived = self.intake, time.monotonic(), time.perf_counter_ns()
        find_plan, calls = self._plans.find, self.open
        for event in events:
            try:
                kind, call_id, method_id, message, key, details = event
                # the event of a cancelled call has no message and no details
                if kind == EVENT_CANCEL or message is None or details is None:
                    if (cancelled := calls.get(call_id)) is not None:
                        cancelled.cancel()
                    continue
                metadata, _peer, remaining = details
                call = calls[call_id] = NativeCall()
                call.server, call.intake, call.number = self, intake, call_id
                call.method, call.metadata, call.started = _METHODS[method_id], metadata, arrived
                if remaining is not None:
                    call.deadline = now + remaining
                plan = find_plan(message) if method_id == _INFER_ID else None
                bad_timeout = key if remaining is None and isinstance(key, bytes) else None
                if plan is None or bad_timeout is not None or not intake.all_admitted or not plan.put(call, message):
                    self._submit_slowly(call, message, bad_timeout)
            except Exception:  # the other events are still handled
                log.exception("an event was lost")
        return True

    def _submit_slowly(self, call: "NativeCall", message: bytes, bad_timeout: bytes | None) -> None:
        """Check a call, and submit it. ``bad_timeout`` is the value of grpc-timeout if it is malformed."""
        try:
            self.intake.admit(call.metadata)
            self.intake.require_size("Received", len(message))
            if bad_timeout is not None:
                raise InvalidRequestError(
                    f"{_TIMEOUT_HEADER} must be 1 to 8 digits and a unit, which is one of H, M, S, m, u and n, "
                    f"not {bad_timeout.decode('latin-1')!r}"
                )
        except ServerError as error:
            call.fail(error)
            return
        if call.method == CLASSIFY:
            parse = classifier_pb2.ClassifyRequest.FromString
            submit_on_thread([call], [lambda: classify_query(parse_message(parse, message, CLASSIFY))])
        else:
            submit_infer(call, self._plans, message)


class NativeCall(TransportCall):
    server: NativeServer
    number: int  # the library's number for the call

    def respond(self, response: Any, timings: Timings) -> None:
        message = serialized(response)
        try:
            self.intake.require_size("Sent", len(message))
        except MessageTooLargeError as error:
            self.fail(error)
            return
        self.server.front.respond(self.number, message, None, cost_metadata(timings))
        self.server.open.pop(self.number, None)  # must be last, because the server may close when no call is open

    def refuse(self, error: Exception) -> None:
        # the library ignores the status if the caller has left
        code, message = call_status(error, self.method, self)
        number: int = code.value[0]
        self.server.front.fail(self.number, number, message)
        self.server.open.pop(self.number, None)

    @classmethod
    def send(cls, calls: "Sequence[Self]", responses: Sequence[bytes], cost: BatchCost) -> None:
        server = calls[0].server  # calls that share a plan belong to the same server
        respond, ended = server.front.respond, server.open.pop
        compute, size = (COMPUTE_NS, str(cost.compute_ns)), (BATCH_SIZE, str(cost.batch_size))
        for call, response in zip(calls, responses, strict=True):
            respond(call.number, response, None, ((QUEUE_NS, str(call.queue_ns)), compute, size))
            ended(call.number, None)
