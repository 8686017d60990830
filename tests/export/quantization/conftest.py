from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.signature import Signature


@pytest.fixture
def signature(tmp_path: Path) -> Callable[[onnx.ModelProto], Signature]:
    """Reads a model's signature as the runtime sees it."""

    def read(model: onnx.ModelProto) -> Signature:
        file = tmp_path / "signature.onnx"
        file.write_bytes(model.SerializeToString())
        return Runtime(file, provider="cpu").signature

    return read
