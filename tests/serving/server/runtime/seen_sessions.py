"""A runtime on the CPU that uses IO binding, as runtimes do on a GPU. Tests can observe and change its sessions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hangtag.serving.server.runtime.inference_session import Gpu, SessionOpener
from hangtag.serving.server.runtime.session import Runtime

Rows = npt.NDArray[Any]
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]
Compute = Callable[..., object]
"""A function that computes a batch from an IOBinding and RunOptions."""


class Binding(onnxruntime.IOBinding):  # type: ignore[misc]
    """Records the inputs that are bound at fixed addresses. Tests can change the other inputs before they are bound."""

    def __init__(self, session: Any, change: Callable[[Rows], Rows]) -> None:
        super().__init__(session)
        self._change = change
        self.fixed: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, rows: Rows) -> None:
        super().bind_cpu_input(name, np.ascontiguousarray(self._change(rows)))

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.fixed[name] = value
        super().bind_ortvalue_input(name, value)


class SeenSession:
    """A real session that reports each run. A test may replace the function that computes batches with IO binding."""

    def __init__(self, session: Any, note: Callable[[str], object] = lambda how: None) -> None:
        """Wrap a session.

        Args:
            session: ONNX Runtime's InferenceSession.
            note: A function that is called before each batch, with the argument "run" or "bound".
        """
        self._session, self._note = session, note
        self.providers: list[str] = session.get_providers()
        self.before: Callable[[], object] = lambda: None
        """Called before each batch that is computed without IO binding."""
        self.compute: Compute = session.run_with_iobinding
        self.change: Callable[[Rows], Rows] = lambda rows: rows
        """Applied to the rows of each input that is not at a fixed address."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return self.providers

    def io_binding(self) -> Binding:
        return Binding(self._session, lambda rows: self.change(rows))

    def run(self, *arguments: Any) -> Any:
        self._note("run")
        self.before()
        return self._session.run(*arguments)

    def run_with_iobinding(self, *arguments: Any) -> None:
        self._note("bound")
        self.compute(*arguments)


class OnCpu(SessionOpener):
    """Opens sessions that compute on the CPU but report other execution providers.

    By default, the reported providers support CUDA graphs. The runtime then runs the same code as on a GPU, but ONNX
    Runtime captures no graphs on the CPU.
    """

    def __init__(self, file: Path, providers: list[str] = PROVIDERS) -> None:
        super().__init__(file, threads=1, gpu=Gpu())
        self._used: list[str] = []
        self.session = self._seen("session")
        self.graphs = self._seen("graphs")
        """The session that would capture the CUDA graphs."""
        self.runtime = Runtime(file, provider="cpu", opener=self)
        self.session.providers = self.graphs.providers = providers

    def open(self, provider: str, *, threads: int | None = None, cuda_graphs: bool = False) -> Any:
        return self.graphs if cuda_graphs else self.session

    def bind(self, largest: int, *, cuda_graphs: str = "on", instances: int = 1) -> Runtime:
        """Turn on IO binding, and return the runtime."""
        self.runtime.use_io_binding(largest, instances=instances, cuda_graphs=cuda_graphs)
        return self.runtime

    def used_for(self, inputs: dict[str, Any]) -> list[str]:
        """Compute a batch. Return the name of the method that computed it, such as "session run" or "graphs bound"."""
        self._used.clear()
        self.runtime.run(inputs)
        return self._used.copy()

    def _seen(self, name: str) -> SeenSession:
        return SeenSession(super().open("cpu"), lambda how: self._used.append(f"{name} {how}"))


def rows(*values: float) -> dict[str, Any]:
    """The input ``x`` with the row [value, value] for each of these values."""
    return {"x": np.array([[value, value] for value in values], np.float32)}
