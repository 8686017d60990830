"""A model repository that a test changes, and a server that serves it. The test can hold back the server's batches."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import structlog.testing

from hangtag import Client, Outputs
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.telemetry.server_state import VersionState
from tests.kit import onnx_models
from tests.kit.gate import Array, Gates, Held
from tests.kit.waiting import until


class Repository:
    """A folder of routes and models, and its servers. A model's answers contain the version that computed them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._servers = ExitStack()

    def start(self, mode: str = "none", *, models: Path | None = None, **options: Any) -> "Running":
        """Start a server on the repository ``models``, by default this one. ``options`` are arguments of Running."""
        return self._servers.enter_context(Running(models or self.folder, mode, **options))

    def close(self) -> None:
        self._servers.close()

    def publish(self, name: str, version: int = 1, model: onnx.ModelProto | None = None) -> Path:
        """Add a version. The default model is y = x + version, FP32 [batch, 2]."""
        return onnx_models.publish(self.folder, name, model or onnx_models.shifted(version), version)

    def spoil(self, name: str, version: int) -> Path:
        """Replace a version's model by an invalid file."""
        return _write(self.folder / name / str(version) / "model.onnx", "no model")

    def settings(self, name: str, text: str) -> Path:
        return _write(self.folder / name / "serving.toml", text)

    def promote(self, name: str, version: int) -> Path:
        """Choose the version that is served, as ``hangtag models promote`` does."""
        return _write(self.folder / name / "promoted.toml", f"version = {version}\n")

    def route(self, name: str, text: str) -> Path:
        return _write(self.folder / name / "route.toml", text)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a version of a model. If ``version`` is None, remove the folder of the model or route."""
        shutil.rmtree(self.folder / name if version is None else self.folder / name / str(version))


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


class Running:
    """A server that is ready inside the block, and clients of this server."""

    def __init__(
        self,
        models: Path,
        mode: str = "none",
        *,
        versions: Mapping[str, tuple[int, ...]] | None = None,
        on_load: Callable[[Runtime], object] = lambda _: None,
        **settings: Any,
    ) -> None:
        """Prepare a server that polls only when a test calls ``poll``.

        Args:
            models: The model repository.
            mode: The mode of model control.
            versions: The versions that other workers serve. If it is set, the server starts like a replacement for a
                worker that died.
            on_load: See `Gates`.
            settings: Settings of ServerConfig.
        """
        usual: dict[str, Any] = {"transport": "grpc", "drain_seconds": 0}
        self.gates = Gates(on_load)
        config = ServerConfig(
            models=models, model_control=mode, poll_seconds=3600, port=0, http_port=-1, **(usual | settings)
        )
        self.server = Server(config, versions=versions, runtimes=self.gates)
        self._stack = ExitStack()

    def __enter__(self) -> "Running":
        self._stack.enter_context(self.server)
        self.client = self._stack.enter_context(Client(self.server.address))
        self._callers = self._stack.enter_context(ThreadPoolExecutor(64))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def poll(self, times: int = 1) -> list[Any]:
        """Let the server poll its repository now, as it does every --poll-seconds. Returns the server's log."""
        with structlog.testing.capture_logs() as log:
            for _ in range(times):
                self.server.control.poll()
        return log

    def served(self) -> dict[str, list[int]]:
        """The serving versions, by model and route."""
        ready: dict[str, list[int]] = {}
        for name, version, state in self.index():
            if state == "READY":
                ready[name] = sorted([*ready.get(name, []), version])
        return ready

    def index(self) -> list[tuple[str, int, str]]:
        """The name, version and state of each version that serves or could not be loaded."""
        return [(one.name, int(one.version), one.state) for one in self.server.state().versions]

    def state(self, name: str) -> VersionState:
        """The state of the only version of a model or route, even if the version does not serve."""
        (state,) = [one for one in self.server.state().versions if one.name == name]
        return state

    def reason(self, name: str) -> str:
        """The reason why a model or route does not serve."""
        state = self.state(name)
        assert state.state == "UNAVAILABLE"
        return state.reason

    def loads(self, name: str) -> tuple[int, int]:
        """The number of successful loads of a model's versions, and the number of failed loads."""
        loads = self.server.state().loads
        return loads.get((name, "ok"), 0), loads.get((name, "error"), 0)

    def infer(self, name: str, values: Sequence[float] = (0,), version: str = "") -> Outputs:
        """Send one request, which has one sample for each value."""
        return self.client.infer(name, samples(values), version=version)

    def answer(self, name: str, version: str = "") -> int:
        """The number of the version that answers. `publish` must have published its default model."""
        return int(self.infer(name, version=version)["y"][0, 0])

    def infer_later(self, name: str, values: Sequence[float] = (0,)) -> "Future[Outputs]":
        """Send a request from another thread."""
        return self._callers.submit(self.infer, name, values)

    def infer_waiting(self, name: str, values: Sequence[float], model: str, place: int) -> "Future[Outputs]":
        """Send a request from another thread, and wait until it has this place in a model's queue."""
        call = self.infer_later(name, values)
        until(lambda: self.state(model).queued == place)
        return call

    @contextmanager
    def occupied(self, model: str, queued: int = 0) -> Iterator[None]:
        """Keep a model busy with a call until the block ends, and queue more calls. Each call has the value 9."""
        held = Held(9)
        self.gates.play(**(self.gates.scripts | {model: held}))
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
        return self._callers.submit(work)


def samples(values: Sequence[float]) -> dict[str, Array]:
    """An input ``x`` that has the row [value, value] for each of the values."""
    return {"x": np.array([[value, value] for value in values], np.float32)}
