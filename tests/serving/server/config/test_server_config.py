import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from tests.kit.command import invoke, python

FILE = Path("file")
TLS = {"tls_cert": FILE, "tls_key": FILE}
SETTINGS = [
    declared.name
    for declared in fields(ServerConfig)
    if declared.name not in ("limits", "platform_paths", "store", "behind")
]


def serve() -> click.Command:
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    return command


def parsed(*arguments: str) -> ServerConfig:
    return ServerConfig(**serve().make_context("serve", list(arguments)).params)


def refused(*arguments: str, variables: dict[str, str] | None = None) -> str:
    return invoke("serve", *arguments, exit_code=2, variables=variables).stderr


def test_every_setting_has_an_option_with_its_default_and_a_help_text() -> None:
    options = {one.name: one for one in serve().params}
    assert [*options] == SETTINGS
    assert all(isinstance(one, click.Option) and one.help for one in options.values())
    config = parsed()
    assert config == ServerConfig()
    assert (config.host, config.port, config.models) == ("127.0.0.1", 8001, Path("models"))
    assert config.max_queue_delay_microseconds == 0


def test_options_and_variables_arrive_with_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGTAG_SERVE_PORT", "0")
    monkeypatch.setenv("HANGTAG_SERVE_NO_PAGE", "1")
    config = parsed("--models", "m", "--max-batch-size", "8", "--drain-seconds", "0.5", "--require-proof")
    assert config == ServerConfig(
        models=Path("m"), max_batch_size=8, drain_seconds=0.5, require_proof=True, port=0, no_page=True
    )


# For each setting: a refused value as text on the command line, the same value in Python, and the reason.
REFUSED: dict[str, tuple[str, object, str]] = {
    "models": ("", "models", "'models' is not a path"),
    "model_cache": ("", "cache", "'cache' is not a path"),
    "model_cache_mib": ("0", 0, "0 is not a whole number of at least 1"),
    "model_control": ("auto", "auto", "'auto' is not one of 'none', 'poll', 'explicit'"),
    "load_model": ("", (1,), "1 is not a text"),
    "poll_seconds": ("0.05", 0.05, "0.05 is not a number of seconds from 0.1 to 2000000"),
    "max_loaded_mib": ("-1", -1, "-1 is not a whole number from 0 to 1048576"),
    "num_versions": ("-1", -1, "-1 is not a whole number of at least 0"),
    "require_proof": ("", "yes", "'yes' is not True or False"),
    "trial_load_seconds": ("-1.0", -1.0, "-1.0 is not a number of seconds from 0 to 2000000"),
    "trial_load_mib": ("511", 511, "511 is not a whole number from 512 to 1048576"),
    "host": ("", 1, "1 is not a text"),
    "published_host": ("", 1, "1 is not a text"),
    "port": ("99999", 99999, "99999 is not a whole number from 0 to 65535"),
    "http_port": ("-2", -2, "-2 is not a whole number from -1 to 65535"),
    "allowed_host": ("", (1,), "1 is not a text"),
    "no_page": ("", "yes", "'yes' is not True or False"),
    "platform": ("azure", "azure", "'azure' is not one of 'none', 'sagemaker', 'vertex'"),
    "platform_model": ("", 1, "1 is not a text"),
    "metrics_port": ("-2", -2, "-2 is not a whole number from -1 to 65535"),
    "otlp_endpoint": ("", None, "None is not a text"),
    "provider": ("tpu", "tpu", "'tpu' is not one of 'auto', 'cpu', 'cuda', 'tensorrt'"),
    "gpu_device_id": ("-1", -1, "-1 is not a whole number of at least 0"),
    "gpu_mem_limit_mib": ("-1", -1, "-1 is not a whole number of at least 0"),
    "cuda_graphs": ("maybe", "maybe", "'maybe' is not one of 'off', 'auto', 'on'"),
    "workers": ("0", 0, "0 is not a whole number from 1 to 256"),
    "instances": ("-1", -1, "-1 is not a whole number from 0 to 64"),
    "intra_op_threads": ("two", "two", "'two' is not a whole number from 0 to 256"),
    "max_batch_size": ("0", 0, "0 is not a whole number from 1 to 4096"),
    "model_max_batch_size": (
        "=1",
        (("cnn", 4097),),
        "('cnn', 4097) must be a model's name and a number from 0 to 4096",
    ),
    "max_queue_size": ("0", 0, "0 is not a whole number from 1 to 4096"),
    "max_queue_delay_microseconds": ("1.5", "1.5", "'1.5' is not a whole number from 0 to 10000000"),
    "tls_cert": ("/", Path("/"), "/ is not the path of a file"),
    "tls_key": ("/", Path("/"), "/ is not the path of a file"),
    "tls_client_ca": ("/", Path("/"), "/ is not the path of a file"),
    "token_file": ("/", Path("/"), "/ is not the path of a file"),
    "max_message_mib": ("0", 0, "0 is not a whole number from 1 to 1024"),
    "max_http_bodies_mib": ("-1", -1, "-1 is not a whole number from 0 to 1048576"),
    "max_concurrent_streams": ("0", 0, "0 is not a whole number from 1 to 100000"),
    "max_connections": ("0", 0, "0 is not a whole number from 1 to 1000000"),
    "connection_idle_seconds": ("0.0", 0.0, "0.0 is not a number of seconds from 1 to 2000000"),
    "connection_age_seconds": ("inf", math.inf, "inf is not a number of seconds from 0 to 2000000"),
    "keepalive_seconds": ("", math.nan, "nan is not a number of seconds from 1 to 2000000"),
    "transport": ("quic", "quic", "'quic' is not one of 'auto', 'native', 'grpc'"),
    "drain_seconds": ("long", "long", "'long' is not a number of seconds from 0 to 2000000"),
}


def test_every_setting_has_a_value_that_it_refuses() -> None:
    assert [*REFUSED] == SETTINGS


@pytest.mark.parametrize("name", REFUSED)
def test_the_constructor_refuses_a_value_in_a_sentence_and_the_command_names_the_option(name: str) -> None:
    text, value, sentence = REFUSED[name]
    with pytest.raises(StartError) as error:
        ServerConfig(**{name: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{name}: {sentence}"
    if text:
        variable, option = f"HANGTAG_SERVE_{name.upper()}", f"--{name.replace('_', '-')}"
        expected = f"Error: Invalid value for '{option}' (env var: '{variable}'): "
        assert expected in refused(option, text)
        assert expected in refused(variables={variable: text})


@pytest.mark.parametrize("value", [True, 8001.0, "8001", None])
def test_a_number_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(StartError, match=f"port: {value!r} is not a whole number from 0 to 65535"):
        ServerConfig(port=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["cnn", "=8", "cnn=", "cnn=-1", "cnn=²"])
def test_a_models_limit_is_written_as_name_and_number(text: str) -> None:
    error = refused("--model-max-batch-size", text)
    assert f"{text!r} must be a model's name, '=' and a number" in error


def test_a_models_own_limit_is_given_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parsed("--model-max-batch-size", "vad=0", "--model-max-batch-size", "a=b=128")
    assert config.model_max_batch_size == (("vad", 0), ("a=b", 128))
    assert [config.max_batch_size_of(name) for name in ("a=b", "cnn")] == [128, 64]
    assert [config.batching_override(name) for name in ("vad", "a=b", "cnn")] == [False, True, None]
    monkeypatch.setenv("HANGTAG_SERVE_MODEL_MAX_BATCH_SIZE", "vad=0 cnn=8")
    assert parsed().model_max_batch_size == (("vad", 0), ("cnn", 8))


def test_the_declarations_do_not_need_click() -> None:
    code = "import sys, hangtag.serving.server.config.server_config\nassert 'click' not in sys.modules"
    assert python(code).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_model": ["cnn"], "model_control": "explicit"}, r"load_model: \['cnn'\] is not a tuple"),
        ({"max_loaded_mib": 1, "model_control": "explicit"}, "use only one of these options"),
        ({"load_model": ("one",)}, "--max-loaded-mib; without them"),
        ({"max_queue_size": 8}, r"--max-queue-size \(8\) is below --max-batch-size \(64\)"),
        (
            {"max_queue_size": 64, "model_max_batch_size": (("lstm", 128),)},
            r"--max-queue-size \(64\) is below --max-batch-size \(128\)",
        ),
        (
            {"max_message_mib": 3, "max_http_bodies_mib": 2},
            r"--max-http-bodies-mib \(2\) is below --max-message-mib \(3\)",
        ),
        ({"tls_cert": FILE}, "give --tls-cert and --tls-key together"),
        ({"tls_key": FILE}, "give --tls-cert and --tls-key together"),
        ({"tls_client_ca": FILE}, "--tls-client-ca needs TLS"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError, match=message):
        ServerConfig(**options)


def test_memory_for_http_bodies_follows_the_largest_message_unless_it_is_set() -> None:
    assert ServerConfig(max_message_mib=2).http_bodies_bytes == 32 << 20
    assert ServerConfig(max_message_mib=2, max_http_bodies_mib=2).http_bodies_bytes == 2 << 20


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
    messages = ServerConfig(host=host, **options).dangers
    assert len(messages) == len(dangers)
    assert all(word in message for word, message in zip(dangers, messages, strict=True))
