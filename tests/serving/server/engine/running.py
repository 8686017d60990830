"""A server of a test's repository, and short ways to ask it what serves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hangtag import Client, Outputs
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.server_state import VersionState
from tests.kit.waiting import until
from tests.serving.server.engine.scripted import Held, Scripts


class Running:
    """A server that is ready inside the block, and clients of it."""

    def __init__(
        self,
        models: Path,
        mode: str = "none",
        *,
        versions: Mapping[str, tuple[int, ...]] | None = None,
        on_load: Callable[[Runtime], object] = lambda _: None,
        **settings: Any,
    ) -> None:
        """Prepare a server that polls when a test says so, and closes at once what was replaced.

        Args:
            models: Its repository.
            mode: Its model control.
            versions: What the other workers serve, for a worker that replaces another.
            on_load: See `Scripts`.
            settings: Of ServerConfig.
        """
        fixed: dict[str, Any] = {
            "models": models,
            "model_control": mode,
            "poll_seconds": 3600,
            "port": 0,
            "http_port": -1,
        }
        usual: dict[str, Any] = {"transport": "grpc", "drain_seconds": 0, "limits": Limits(linger_seconds=0)}
        self.scripts = Scripts(on_load)
        self.server = Server(ServerConfig(**fixed, **(usual | settings)), versions=versions, runtimes=self.scripts)
        self._stack = ExitStack()

    def __enter__(self) -> "Running":
        self._stack.enter_context(self.server)
        self.client = self._stack.enter_context(Client(self.server.address))
        self._callers = self._stack.enter_context(ThreadPoolExecutor(64))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def poll(self) -> None:
        """Let the server read its repository now, as it does after each --poll-seconds."""
        self.server.control.poll()

    def served(self) -> dict[str, list[int]]:
        """The versions that serve, by model and route."""
        ready: dict[str, list[int]] = {}
        for name, version, state in self.index():
            if state == "READY":
                ready[name] = sorted([*ready.get(name, []), version])
        return ready

    def index(self) -> list[tuple[str, int, str]]:
        """Name, version and state of each version that serves, or could not be loaded."""
        return [(one.name, int(one.version), one.state) for one in self.server.state().versions]

    def state(self, name: str) -> VersionState:
        """The state of the one version that serves, or should."""
        (state,) = [one for one in self.server.state().versions if one.name == name]
        return state

    def reason(self, name: str) -> str:
        """Why a name does not serve."""
        state = self.state(name)
        assert state.state == "UNAVAILABLE"
        return state.reason

    def loads(self, name: str) -> tuple[int, int]:
        """How often versions of a model were loaded, and could not be."""
        loads = self.server.state().loads
        return loads.get((name, "ok"), 0), loads.get((name, "error"), 0)

    def infer(self, name: str, values: Sequence[float] = (0,), version: str = "") -> Outputs:
        """Send a request with one sample for each value."""
        return self.client.infer(name, samples(values), version=version)

    def answer(self, name: str, version: str = "") -> int:
        """The number of the version that answers, of a model that `Repository.publish` makes by default."""
        return int(self.infer(name, version=version)["y"][0, 0])

    def infer_later(self, name: str, values: Sequence[float] = (0,)) -> "Future[Outputs]":
        """Send a request from another thread."""
        return self._callers.submit(self.infer, name, values)

    def infer_waiting(self, name: str, values: Sequence[float], model: str, place: int) -> "Future[Outputs]":
        """Send a request from another thread, and wait until it has this place in the queue of a model."""
        call = self.infer_later(name, values)
        until(lambda: self.state(model).queued == place)
        return call

    @contextmanager
    def occupied(self, model: str, queued: int = 0) -> Iterator[None]:
        """Until the block's end a model computes a call of somebody else, and more wait; all have the value 9."""
        held = Held(9)
        self.scripts.play(**(self.scripts.scripts | {model: held}))
        calls = [self.infer_later(model, [9])]
        held.wait()
        calls += [self.infer_waiting(model, [9], model, place) for place in range(1, queued + 1)]
        try:
            yield
        finally:
            held.release()
        for call in calls:
            call.result()

    def in_thread(self, work: Callable[[], object]) -> "Future[object]":
        """Do something in another thread."""
        return self._callers.submit(work)


def samples(values: Sequence[float]) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]:
    """Inputs with one sample for each value."""
    return {"x": np.array([[value, value] for value in values], np.float32)}


Start = Callable[..., Running]
"""Starts a server of the test's repository; see the fixture ``start``."""
