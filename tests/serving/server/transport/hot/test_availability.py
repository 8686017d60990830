"""Where the hot path cannot be used, the same calls go the ordinary way, and the log says why."""

import re
from pathlib import Path

import pytest
import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.transport.hot import availability
from hangtag.serving.server.transport.hot.completion_queue import SharedServer
from hangtag.serving.server.transport.hot.path import HotPath
from tests.serving.server.transport.live import LiveServer, index, request

TRANSPORT = Path(availability.__file__).parents[1]


@pytest.fixture
def config(repository: Path) -> ServerConfig:
    return ServerConfig(models=repository, port=0)


def broken(*_: object) -> None:
    raise RuntimeError("another grpcio")


def test_it_can_be_used_here() -> None:
    assert availability.problem() is None


@pytest.mark.parametrize("version", ["1.75.9", "1.999.0", "2.0.0"])
def test_another_version_is_not_even_tried(version: str) -> None:
    problem = availability.problem(version)
    assert problem is not None
    assert problem.startswith(f"grpcio {version} was not tried; what was: from ")


@pytest.mark.parametrize("part", ["request", "take_over"])
def test_a_failing_self_test_is_told_and_the_ordinary_path_serves(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(SharedServer, part, broken)
    with structlog.testing.capture_logs() as logs, LiveServer(config) as live:
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        assert live.server.state().paths == {("ordinary", "the self-test failed: RuntimeError: another grpcio"): 1}
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["reason"] == "the self-test failed: RuntimeError: another grpcio"
    (ready,) = [line for line in logs if line["event"] == "ready"]
    assert ready["path"] == "ordinary"


def test_an_answer_that_is_not_what_was_sent_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HotPath, "_on_message", lambda path, call, message: call.answer(b"else", ()))
    assert availability.problem() == "the self-test failed: ServerError: not as expected: a call is answered"


def test_asking_for_it_where_it_cannot_be_had_is_an_error(
    config: ServerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedServer, "request", broken)
    with pytest.raises(StartError, match="the hot path cannot be used: the self-test failed"):
        LiveServer(ServerConfig(models=config.models, port=0, hot_path="on"))


def test_the_log_says_that_it_is_used(config: ServerConfig) -> None:
    with structlog.testing.capture_logs() as logs, LiveServer(config):
        pass
    assert [line["path"] for line in logs if line["event"] == "ready"] == ["hot"]
    assert not [line for line in logs if line["log_level"] != "info"]


def test_one_module_alone_touches_grpcios_private_parts() -> None:
    private = re.compile(r"from grpc import _|\bgrpc\._[^_]")
    found = {file.name for file in TRANSPORT.rglob("*.py") if private.search(file.read_text())}
    assert found == {"completion_queue.py"}
