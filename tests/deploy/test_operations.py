"""Runs the commands of docs/how-to/change-models.md, and checks envoy.yaml."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from hangtag import Client
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.command import ROOT
from tests.kit.server import server

PAGE = ROOT / "docs/how-to/change-models.md"
# A fake docker that logs its command lines and lists two replicas, which are healthy when inspected again.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >> commands
case "$1" in
compose) echo first; echo second ;;
inspect) n=$(grep -c "^inspect.*$4$" commands); [ "$n" -ge 2 ] && echo healthy || echo starting ;;
esac
"""


def test_replicas_restart_one_after_another(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(for replica.*?)```", PAGE.read_text(), re.DOTALL)
    for name, text in (("docker", FAKE_DOCKER), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", block], cwd=tmp_path, env={"PATH": path}, check=True, timeout=30)
    commands = [line.split()[0] + " " + line.split()[-1] for line in (tmp_path / "commands").read_text().splitlines()]
    assert commands == [
        "compose server",
        "restart first", "inspect first", "inspect first",
        "restart second", "inspect second", "inspect second",
    ]  # fmt: skip


def test_a_call_upgrades_a_model_and_another_rolls_it_back(tmp_path: Path) -> None:
    """The page's command loads the newest version, which is 2 until the test moves version 2 away."""
    (command,) = re.findall(r"```sh\n(\S*hangtag models load .*?)```", PAGE.read_text(), re.DOTALL)
    models = tmp_path / "models"
    onnx_models.publish(models, "cnn", onnx_models.classifier())
    explicit = server(models, http_port=-1, model_control="explicit", load_model=("*",))
    with explicit as running, Client(running.address) as client:

        def load_and_list_versions() -> list[str]:
            local_command = command.replace("127.0.0.1:8001", running.address)
            activated = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            subprocess.run(["sh", "-ec", local_command], cwd=ROOT, env=activated, check=True, timeout=60)
            return [each.version for each in client.statistics()]

        onnx_models.publish(models, "cnn", onnx_models.classifier(), version=2)
        assert load_and_list_versions() == ["2"]
        shutil.move(models / "cnn/2", tmp_path)
        assert load_and_list_versions() == ["1"]


def test_the_proxy_protects_the_servers_and_their_callers() -> None:
    proxy = yaml.safe_load((ROOT / "deploy/envoy.yaml").read_text())
    assert "admin" not in proxy
    (cluster,) = proxy["static_resources"]["clusters"]
    # Each caller has its own connections to servers, because a caller that cancels many calls loses its connection.
    assert cluster["connection_pool_per_downstream_connection"] is True
    (limit, _) = proxy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    assert limit["typed_config"]["max_connections"] < ServerConfig().max_connections
    # Outlier detection must eject a dead replica for longer than the health checks need to detect the failure.
    (check,) = cluster["health_checks"]
    seconds = {name: float(check[name].removesuffix("s")) for name in ("interval", "timeout")}
    ejection_seconds = float(cluster["outlier_detection"]["base_ejection_time"].removesuffix("s"))
    assert ejection_seconds > check["unhealthy_threshold"] * sum(seconds.values())
