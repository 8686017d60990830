"""An image contains what the server needs and nothing more."""

import ast
import json
from importlib.metadata import version
from typing import Any

import pytest

from tests.deploy.engine.stack import ROOT, docker

VERSION = version("hangtag")
BASE = "debian:trixie-slim"
MEGABYTE = 1_000_000  # docker states image sizes in this unit
# A script that prints the CPU time of the server's process, which does not depend on other load on the machine.
CPU_SECONDS = """
import os
used = open("/proc/1/stat").read().split()
print((int(used[13]) + int(used[14])) / os.sysconf("SC_CLK_TCK"))
"""


def inspect(image: str) -> dict[str, Any]:
    images: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return images[0]


def run_python(image: str, code: str) -> str:
    """Returns what this Python code prints in a container of the image."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", code).strip()


def test_the_cpu_image_is_small() -> None:
    above_base = inspect("hangtag:cpu")["Size"] - inspect(BASE)["Size"]
    assert above_base <= 345 * MEGABYTE, f"{above_base / MEGABYTE:.0f} MB above its base"


@pytest.mark.parametrize("image", ["hangtag:cpu", "hangtag:client"])
def test_the_user_and_the_labels(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert labels["title"] == "hangtag"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == VERSION
    assert labels["revision"] != "unknown"
    assert run_python(image, "import importlib.metadata as m; print(m.version('hangtag'))") == VERSION


@pytest.mark.parametrize("image", ["hangtag:cpu", "hangtag:client"])
def test_tools_for_building_and_training_are_absent(image: str) -> None:
    modules = "pip", "torch", "onnx", "hatchling"
    code = f"import importlib.util as u; print([m for m in {modules} if u.find_spec(m)])"
    assert run_python(image, code) == "[]"
    code = "import shutil; print([t for t in ('gcc', 'cc', 'make', 'pip', 'git', 'curl') if shutil.which(t)])"
    assert run_python(image, code) == "[]"


def test_the_health_check_is_hangtag_health() -> None:
    config = inspect("hangtag:cpu")["Config"]
    assert config["Healthcheck"]["Test"] == ["CMD", "hangtag", "health"]
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]


def test_the_image_alone_serves_the_shipped_models_after_little_cpu_time() -> None:
    """The container has neither mounts nor a network."""
    name = docker(
        "run", "--detach", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "hangtag:cpu"
    ).strip()
    try:
        docker("exec", name, "hangtag", "health", "--wait", "60")
        used = docker("exec", name, "python", "-c", CPU_SECONDS)
    finally:
        docker("kill", name)
    assert float(used) < 3


@pytest.mark.parametrize("image", ["cpu", "client"])
def test_the_sbom_lists_what_is_installed(image: str) -> None:
    """This test needs `make -C deploy sbom` after the build that it tests."""
    file = ROOT / f"reports/audit/{image}/sbom.json"
    assert file.exists(), "run 'make -C deploy sbom'"
    components = {(part["name"], part["version"]) for part in json.loads(file.read_text())["components"]}
    code = "import importlib.metadata as m; print({d.name: d.version for d in m.distributions()})"
    installed: dict[str, str] = ast.literal_eval(run_python(f"hangtag:{image}", code))
    assert installed.items() <= components
    assert "python3.13" in {name for name, _ in components}
    licences = (ROOT / f"reports/audit/{image}/licences.md").read_text()
    assert all(f"| {name} " in licences for name in installed)


def test_worker_processes_need_no_further_rights() -> None:
    restrictions = ("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
    name = docker("run", "--detach", *restrictions, "--env", "HANGTAG_SERVE_WORKERS=2", "hangtag:cpu").strip()
    metrics = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8002/metrics').read().decode())"
    try:
        docker("exec", name, "hangtag", "health", "--wait", "60")
        assert "\nhangtag_workers 2.0\n" in docker("exec", name, "python", "-c", metrics)
        docker("stop", "--time", "30", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        docker("rm", "--force", name)
