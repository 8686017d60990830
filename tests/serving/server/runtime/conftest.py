"""Models to run, and runtimes with IO binding."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hangtag.serving.server.runtime import binding_factory
from hangtag.serving.server.runtime.binding_factory import BindingFactory
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models


@pytest.fixture
def publish(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    return lambda model: onnx_models.publish(tmp_path / "models", "m", model)


def with_binding(file: Path, largest: int = 8, instances: int = 1, cuda_graphs: str = "off") -> Runtime:
    runtime = Runtime(file, provider="cpu")
    runtime.use_io_binding(largest, instances=instances, cuda_graphs=cuda_graphs)
    return runtime


def factory_of(runtime: Runtime) -> BindingFactory:
    return BindingFactory(runtime._opener, runtime._session, runtime.signature, runtime._device)


class CpuForCuda:
    """A runtime that takes the CPU for a provider with CUDA graphs: everything around a capture, without a capture.

    ONNX Runtime ignores a graph's number on the CPU.
    """

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime = Runtime(file, provider="cpu")
        monkeypatch.setattr(binding_factory, "CUDA", self.runtime.provider)
        monkeypatch.setattr(BindingFactory, "_graph_session", lambda self: self._opener.open("cpu"))
