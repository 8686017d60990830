"""A worker as its supervisor sees it: a process, a pipe, and what it told last."""

import multiprocessing
import time
from collections.abc import Callable, Mapping
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import UnavailableError
from hangtag.serving.server.process.workers import entry
from hangtag.serving.server.process.workers.messages import GetState, Stop
from hangtag.serving.server.process.workers.pipe_rpc import Peer, PeerError
from hangtag.serving.server.telemetry.server_state import ServerState

ANSWER_SECONDS = 5.0
_CONTEXT = multiprocessing.get_context("spawn")  # gRPC's and ONNX Runtime's threads do not survive a fork


class WorkerProcess:
    """Started on construction; ``on_end`` is called once it is gone."""

    def __init__(
        self,
        number: int,
        config: ServerConfig,
        versions: Mapping[str, tuple[int, ...]],
        changes: int,
        handle: Callable[["WorkerProcess", Any], Any],
        on_end: Callable[["WorkerProcess"], None],
    ) -> None:
        """versions, changes: what is served, and how many changes led to it. handle: answers what it asks."""
        self.number = number
        self.changes = changes
        self.started = time.monotonic()
        self.following = False
        """It is told of changes from now on."""
        self.listening = False
        self.failure = ""
        """Why it could not start."""
        self.state = ServerState()
        """As it told last."""
        self.told = self.started
        """When that was."""
        ours, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(
            target=entry.main, args=(number, config, versions, theirs), name=f"worker-{number}", daemon=True
        )
        self._process.start()
        theirs.close()  # only the worker holds its end now, so its end is the end of this one
        self._peer = Peer(ours, lambda message: handle(self, message), lambda: on_end(self))
        self._peer.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Minus the signal's number where one ended it."""
        return self._process.exitcode

    def call(self, message: Any, timeout: float | None = None) -> Any:
        """Raises PeerError, or what the worker raised."""
        return self._peer.call(message, timeout)

    def refresh(self) -> None:
        """Ask for the state; where there is no answer the last one stays."""
        try:
            self.state = self.call(GetState(), ANSWER_SECONDS)
        except UnavailableError:
            pass  # it has only begun, and says so
        except Exception:
            return  # it is gone, or hangs: ``told`` says since when
        self.told = time.monotonic()

    def ask_to_stop(self) -> None:
        try:
            self.call(Stop(), ANSWER_SECONDS)
        except PeerError:
            return  # gone already, or killed in the end

    def kill(self) -> None:
        self._process.kill()

    def join(self, timeout: float | None = None) -> bool:
        """Whether it has ended."""
        self._process.join(timeout)
        return self._process.exitcode is not None
