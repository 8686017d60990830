"""Sessions of ONNX Runtime on the CPU whose IO binding a test replaces, and a runtime that takes them for CUDA's."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hangtag.serving.server.runtime.session import Runtime

Rows = npt.NDArray[Any]
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class Binding(onnxruntime.IOBinding):  # type: ignore[misc]
    """Keeps the inputs that are bound at fixed addresses, and lets a test change others before they are bound."""

    def __init__(self, session: Any, change: Callable[[Rows], Rows]) -> None:
        super().__init__(session)
        self._change = change
        self.fixed: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, rows: Rows) -> None:
        super().bind_cpu_input(name, np.ascontiguousarray(self._change(rows)))

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.fixed[name] = value
        super().bind_ortvalue_input(name, value)


class BoundSession:
    """A session, in which a test sees and replaces the computing of batches by IO binding."""

    def __init__(self, session: Any, providers: list[str]) -> None:
        self._session = session
        self.get_providers = lambda: providers
        self.compute: Callable[..., object] = session.run_with_iobinding
        """Computes a batch, of a binding and options."""
        self.change: Callable[[Rows], Rows] = lambda rows: rows
        """What becomes of the rows of an input that is not at a fixed address."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Binding:
        return Binding(self._session, lambda rows: self.change(rows))

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.compute(*arguments)


class OnCpu:
    """A runtime whose session a test sees."""

    def __init__(self, file: Path, *, providers: list[str] = PROVIDERS[1:]) -> None:
        self.runtime: Any = Runtime(file, provider="cpu")
        self.session = BoundSession(self.runtime._session, providers)
        self.runtime._session = self.session


class LikeCuda(OnCpu):
    """A runtime that takes the CPU for a provider with CUDA graphs: everything around a capture, without a capture.

    ONNX Runtime ignores a graph's number on the CPU.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, providers=PROVIDERS)
        self.graphs = BoundSession(self.runtime._opener.open("cpu"), PROVIDERS)
        """The session that captures the graphs."""
        self.runtime._opener = SimpleNamespace(path=file, open=lambda _provider, *, cuda_graphs: self.graphs)

    def bind(self, largest: int, *, cuda_graphs: str = "on", instances: int = 1) -> Any:
        """Use IO binding; returns the runtime."""
        self.runtime.use_io_binding(largest, instances=instances, cuda_graphs=cuda_graphs)
        return self.runtime
