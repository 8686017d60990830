import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from hangtag.serving.server.config.server_config import ServerConfig, server_options
from hangtag.serving.server.errors import StartError

FILE = Path("file")


def parsed(*arguments: str, env: dict[str, str] | None = None) -> tuple[Result, ServerConfig | None]:
    made: list[ServerConfig] = []

    @click.command(context_settings={"auto_envvar_prefix": "TEST"})
    @server_options
    def command(**options: Any) -> None:
        made.append(ServerConfig(**options))

    result = CliRunner().invoke(command, arguments, env=env)
    return result, made[0] if made else None


def test_the_options_defaults_are_the_configurations() -> None:
    assert parsed()[1] == ServerConfig()


def test_every_value_has_an_option_and_a_help_text() -> None:
    text = parsed("--help")[0].output
    for declared in dataclasses.fields(ServerConfig):
        assert f"--{declared.name.replace('_', '-')} " in text
        assert declared.metadata["help"].split()[0] in text


def test_the_defaults_are_safe_and_tritons() -> None:
    config = ServerConfig()
    assert (config.host, config.port, config.models) == ("127.0.0.1", 8001, Path("models"))
    assert config.max_queue_delay_microseconds == 0


def test_options_and_variables_arrive_with_their_types() -> None:
    _, config = parsed("--models", "m", "--max-batch-size", "8", "--drain-seconds", "0.5", env={"TEST_PORT": "0"})
    assert config == ServerConfig(models=Path("m"), max_batch_size=8, drain_seconds=0.5, port=0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--provider", "tpu"),
        ("--gpu-device-id", "-1"),
        ("--gpu-mem-limit-mib", "-1"),
        ("--cuda-graphs", "maybe"),
        ("--instances", "-1"),
        ("--max-batch-size", "0"),
        ("--max-queue-size", "0"),
        ("--model-max-batch-size", "cnn"),
        ("--model-max-batch-size", "=8"),
        ("--model-max-batch-size", "cnn="),
        ("--model-max-batch-size", "cnn=-1"),
        ("--model-max-batch-size", "cnn=4097"),
        ("--model-max-batch-size", "cnn=²"),
        ("--max-queue-delay-microseconds", "-1"),
        ("--max-message-mib", "0"),
        ("--drain-seconds", "-1"),
        ("--max-concurrent-streams", "0"),
        ("--hot-path", "maybe"),
        ("--intra-op-threads", "-1"),
        ("--max-connections", "0"),
        ("--keepalive-seconds", "0"),
        ("--connection-idle-seconds", "0"),
        ("--min-ping-seconds", "-1"),
    ],
    ids=" ".join,
)
def test_values_out_of_range_are_usage_errors(arguments: tuple[str, ...]) -> None:
    result, config = parsed(*arguments)
    assert (result.exit_code, config) == (2, None)
    assert arguments[0] in result.output


def test_a_queue_that_never_fills_a_batch_is_refused() -> None:
    with pytest.raises(StartError, match=r"max_queue_size \(8\) is below max_batch_size \(64\)"):
        ServerConfig(max_queue_size=8)
    with pytest.raises(StartError, match=r"max_queue_size \(64\) is below max_batch_size \(128\)"):
        ServerConfig(max_queue_size=64, model_max_batch_size=(("lstm", 128),))


def test_a_models_own_limit_is_given_by_its_name() -> None:
    _, config = parsed("--model-max-batch-size", "vad=0", "--model-max-batch-size", "a=b=128")
    assert config is not None
    assert config.model_max_batch_size == (("vad", 0), ("a=b", 128))
    assert [config.max_batch_size_of(name) for name in ("a=b", "cnn")] == [128, 64]
    assert [config.batching_override(name) for name in ("vad", "a=b", "cnn")] == [False, True, None]
    _, config = parsed(env={"TEST_MODEL_MAX_BATCH_SIZE": "vad=0 cnn=8"})
    assert config is not None
    assert config.model_max_batch_size == (("vad", 0), ("cnn", 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls_cert": FILE}, "give --tls-cert and --tls-key together"),
        ({"tls_key": FILE}, "give --tls-cert and --tls-key together"),
        ({"tls_client_ca": FILE}, "--tls-client-ca needs TLS"),
    ],
)
def test_half_of_tls_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError, match=message):
        ServerConfig(**options)


TLS = {"tls_cert": FILE, "tls_key": FILE}


@pytest.mark.parametrize(
    ("host", "options", "dangers"),
    [
        ("127.0.0.1", {}, []),
        ("::1", {}, []),
        ("localhost", {}, []),
        ("0.0.0.0", {}, ["anybody", "read"]),
        ("::", {"token_file": FILE}, ["read"]),
        ("example.org", TLS, ["anybody"]),
        ("10.0.0.1", {**TLS, "token_file": FILE}, []),
        ("10.0.0.1", {**TLS, "tls_client_ca": FILE}, []),
    ],
)
def test_what_is_dangerous_beyond_loopback(host: str, options: dict[str, Any], dangers: list[str]) -> None:
    told = ServerConfig(host=host, **options).dangers
    assert len(told) == len(dangers)
    assert all(word in danger for word, danger in zip(dangers, told, strict=True))


@pytest.mark.parametrize(
    "option",
    ["--poll-seconds", "--connection-idle-seconds", "--keepalive-seconds", "--min-ping-seconds", "--drain-seconds"],
)
def test_seconds_are_a_number_that_grpc_can_count(option: str) -> None:
    for value in ("nan", "inf", "-1", "1e12", "2000001"):
        result, config = parsed(option, value)
        assert result.exit_code == 2
        assert f"Invalid value for '{option}': " in result.output
        assert config is None
    assert parsed(option, "2e6")[1] is not None
