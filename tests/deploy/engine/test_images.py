"""What is, and what is not, in the images."""

import ast
import json
from importlib.metadata import version
from typing import Any

import pytest

from tests.deploy.engine.stack import ROOT, docker

VERSION = version("hangtag")
BASE = "debian:trixie-slim"
MEGABYTE = 1_000_000  # as docker counts
# What the server's process has computed so far: other load on the machine makes its start longer, but not this.
CPU_SECONDS = """
import os
used = open("/proc/1/stat").read().split()
print((int(used[13]) + int(used[14])) / os.sysconf("SC_CLK_TCK"))
"""


def inspected(image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return found[0]


def within(image: str, code: str) -> str:
    """What this Python code prints in a container of the image."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", code).strip()


def test_the_cpu_image_is_small() -> None:
    above_base = inspected("hangtag:cpu")["Size"] - inspected(BASE)["Size"]
    assert above_base <= 250 * MEGABYTE, f"{above_base / MEGABYTE:.0f} MB above its base"


@pytest.mark.parametrize("image", ["hangtag:cpu", "hangtag:client"])
def test_who_runs_and_what_it_says_of_itself(image: str) -> None:
    config = inspected(image)["Config"]
    assert config["User"] == "10001:10001"
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
    assert labels["title"] == "hangtag"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == VERSION
    assert labels["revision"] != "unknown"
    assert within(image, "import importlib.metadata as m; print(m.version('hangtag'))") == VERSION


@pytest.mark.parametrize("image", ["hangtag:cpu", "hangtag:client"])
def test_nothing_that_builds_or_trains_is_in_it(image: str) -> None:
    modules = "pip", "torch", "onnx", "hatchling"
    code = f"import importlib.util as u; print([m for m in {modules} if u.find_spec(m)])"
    assert within(image, code) == "[]"
    code = "import shutil; print([t for t in ('gcc', 'cc', 'make', 'pip', 'git', 'curl') if shutil.which(t)])"
    assert within(image, code) == "[]"


def test_the_health_check_is_the_service_s_own() -> None:
    config = inspected("hangtag:cpu")["Config"]
    assert config["Healthcheck"]["Test"] == ["CMD", "hangtag", "health"]
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]


def test_the_shipped_models_are_baked_in_and_soon_ready() -> None:
    """Nothing mounted, no network."""
    name = docker(
        "run", "--detach", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "hangtag:cpu"
    ).strip()
    try:
        docker("exec", name, "hangtag", "health", "--wait", "60")
        used = docker("exec", name, "python", "-c", CPU_SECONDS)
    finally:
        docker("kill", name)
    assert float(used) < 3


def test_the_list_of_parts_is_the_image_s() -> None:
    """`make -C deploy sbom` made it from the same build."""
    file = ROOT / "reports/audit/sbom.json"
    assert file.exists(), "run 'make -C deploy sbom'"
    listed = {part["name"]: part["version"] for part in json.loads(file.read_text())["components"]}
    code = "import importlib.metadata as m; print({d.name: d.version for d in m.distributions()})"
    installed: dict[str, str] = ast.literal_eval(within("hangtag:cpu", code))
    assert installed.items() <= listed.items()
    assert "python3.13" in listed
    licences = (ROOT / "reports/audit/licences.md").read_text()
    assert all(f"| {name} " in licences for name in installed)


def test_several_worker_processes_need_no_more_rights() -> None:
    confined = ("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")
    name = docker("run", "--detach", *confined, "--env", "HANGTAG_SERVE_WORKERS=2", "hangtag:cpu").strip()
    metrics = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8002/metrics').read().decode())"
    try:
        docker("exec", name, "hangtag", "health", "--wait", "60")
        assert "\nhangtag_workers 2.0\n" in docker("exec", name, "python", "-c", metrics)
        docker("stop", "--time", "30", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"
    finally:
        docker("rm", "--force", name)
