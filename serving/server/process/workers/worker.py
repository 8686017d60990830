"""One worker: a whole server in a process of its own, whose clients control all workers through the supervisor."""

import queue
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.control import Control
from hangtag.serving.server.engine.loading import VersionKey
from hangtag.serving.server.errors import StartError, UnavailableError
from hangtag.serving.server.host import memory
from hangtag.serving.server.host.open_files import OpenFiles
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.process.workers.messages import (
    GetState,
    Listening,
    Load,
    Loaded,
    Poll,
    StartFailed,
    Stop,
    Unload,
)
from hangtag.serving.server.process.workers.pipe_rpc import Peer, PeerError
from hangtag.serving.server.telemetry.server_state import ServerState

log = structlog.get_logger()


class SupervisorControl:
    """Controls the models of all workers through the supervisor; clients of a worker get this control."""

    def __init__(self, supervisor: Peer, own: Control, answer_seconds: float) -> None:
        """Control the models.

        Args:
            supervisor: Takes the messages.
            own: The control of this worker alone.
            answer_seconds: How long the supervisor waits for a worker that may hang.
        """
        self._answer_seconds = answer_seconds
        self._supervisor = supervisor
        self._own = own

    def load(self, name: str) -> None:
        self._supervisor.call(Load(name))

    def unload(self, name: str) -> None:
        self._supervisor.call(Unload(name))

    def state(self) -> ServerState:
        seconds = 2 * self._answer_seconds  # the supervisor's answer takes so long while another worker hangs
        try:
            state: ServerState = self._supervisor.call(GetState(), seconds)
        except PeerError as error:
            log.warning("no statistics of the other workers", reason=str(error))
            return self._own.state()
        return state

    def published(self) -> list[VersionKey]:
        return self._own.published()


class Worker:
    """Runs one worker from its start to its end."""

    def __init__(self, config: ServerConfig, versions: Mapping[str, tuple[int, ...]], connection: Connection) -> None:
        """versions: the versions that the other workers serve, by model; empty at the start."""
        self._config = config
        self._versions = versions
        self._server: Server | None = None
        # Reasons to stop: a message from the supervisor, the supervisor's end, or a signal.
        self._stop_reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._supervisor = Peer(connection, self._answer, lambda: self._stop_reasons.put("the supervisor ended"))
        self._supervisor.start()

    def run(self) -> bool:
        """Load, listen, serve until there is a reason to stop, drain.

        Returns:
            False if the worker cannot start; it has sent the reason to the supervisor.
        """
        signal.signal(signal.SIGTERM, self._on_signal)
        try:
            server = self._server = Server(
                self._config,
                versions=self._versions,
                wrap_control=lambda own: SupervisorControl(
                    self._supervisor, own, self._config.limits.worker_answer_seconds
                ),
            )
            server.control.start(polling=False)
            server.control.catch_up(*self._supervisor.call(Loaded()))
            server.listen()
            memory.release_loading_memory()
            self._supervisor.call(Listening())
        except StartError as error:
            self._supervisor.call(StartFailed(str(error)))
            return False
        except PeerError:
            self._stop_reasons.put("the supervisor ended")
        log.info("stopping", reason=self._wait_for_stop())
        server.stop()
        return True

    def _answer(self, message: Any) -> Any:
        if isinstance(message, Stop):
            return self._stop_reasons.put("the supervisor stops its workers")
        if self._server is None:
            raise UnavailableError("the worker is only starting")
        match message:
            case Load(name):
                return self._server.control.load(name)
            case Unload(name):
                return self._server.control.unload(name)
            case Poll():
                return self._server.control.poll()
            case GetState():
                return self._server.state()
        raise TypeError(f"a worker has no answer to {message!r}")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop_reasons.put(signal.Signals(number).name)

    def _wait_for_stop(self) -> str:
        files = OpenFiles()
        while True:  # only a timeout wakes this thread if the kernel delivers the signal to another
            try:
                return self._stop_reasons.get(timeout=0.5)
            except queue.Empty:
                files.check()
