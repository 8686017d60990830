from pathlib import Path

import pytest
import structlog.testing

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import RepositoryError
from hangtag.serving.server.process.main import warn_of_limits_without_model
from tests.kit import onnx_models
from tests.kit.command import serving


def test_a_limit_for_a_model_that_does_not_exist_is_a_warning(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with structlog.testing.capture_logs() as log:
        warn_of_limits_without_model(ServerConfig(models=tmp_path, model_max_batch_size=(("gather", 8),)))
        assert log == []
        limits = (("gahter", 8), ("gather", 0), ("another", 4))
        warn_of_limits_without_model(ServerConfig(models=tmp_path, model_max_batch_size=limits))
    (line,) = log
    assert line["log_level"] == "warning"
    assert line["event"].startswith("--model-max-batch-size names models")
    assert line["unknown"] == ["another", "gahter"]


def test_without_a_repository_the_start_fails(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not a folder"):
        warn_of_limits_without_model(ServerConfig(models=tmp_path / "nowhere"))


def test_a_variable_that_makes_grpc_print_headers_is_a_warning(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    options = ("--models", str(tmp_path), "--port", "0", "--transport", "grpc")
    with serving(*options, GRPC_TRACE="http", GRPC_VERBOSITY="info") as server:
        server.wait_until_ready()
        assert any("GRPC_TRACE IS SET" in line and "level=warning" in line for line in server.log)
    with serving(*options, GRPC_TRACE="http") as server:  # gRPC prints nothing by default
        server.wait_until_ready()
        assert not any("GRPC_TRACE" in line for line in server.log)
