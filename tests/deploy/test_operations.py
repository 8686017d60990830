"""The commands of docs/operations.md work as the page describes, and docs/deploy.md describes envoy.yaml correctly."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests import onnx_models

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers/bin"
# Two replicas; each is healthy at its second inspection.
DOCKER = """#!/bin/sh
echo "$*" >> calls
case "$1" in
compose) echo first; echo second ;;
inspect) n=$(grep -c "^inspect.*$4$" calls); [ "$n" -ge 2 ] && echo healthy || echo starting ;;
esac
"""


def test_one_replica_is_restarted_after_another(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(for replica.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    for name, text in (("docker", DOCKER), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", block], cwd=tmp_path, env={"PATH": path}, check=True, timeout=30)
    calls = [line.split()[0] + " " + line.split()[-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [
        "compose server",
        "restart first", "inspect first", "inspect first",
        "restart second", "inspect second", "inspect second",
    ]  # fmt: skip


def test_a_model_is_upgraded_and_taken_back_by_call(tmp_path: Path) -> None:
    """With the page's own command, each time after the folder of the version was put there, or moved away."""
    (command,) = re.findall(r"```sh\n(grpcurl .*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    models = tmp_path / "models"
    onnx_models.publish(models, "cnn", onnx_models.classifier())
    with Server(ServerConfig(models=models, port=0, model_control="explicit", load_model=("*",))) as server:

        def served_after_the_call() -> list[str]:
            path = f"{PEERS}:{os.environ['PATH']}"
            here = command.replace("127.0.0.1:8001", server.address)
            subprocess.run(["sh", "-ec", here], env={"PATH": path}, check=True, timeout=60)
            return [one.version for one in server.state().versions]

        onnx_models.publish(models, "cnn", onnx_models.classifier(), version=2)
        assert served_after_the_call() == ["2"]
        shutil.move(models / "cnn/2", tmp_path)
        assert served_after_the_call() == ["1"]


def test_the_proxy_tries_again_as_often_as_the_page_says_and_has_no_open_door() -> None:
    text = (ROOT / "deploy/envoy.yaml").read_text()
    (retries,) = re.findall(r"num_retries: (\d+)", text)
    word = {"1": "once", "2": "twice"}[retries]
    assert f"is sent to another one, at most {word}" in " ".join((ROOT / "docs/deploy.md").read_text().split())
    assert "admin" not in yaml.safe_load(text)


def test_a_dead_replica_is_out_until_its_health_checks_have_failed() -> None:
    """Else it would be tried again in between, and each of those calls would fail and go to another."""
    (cluster,) = yaml.safe_load((ROOT / "deploy/envoy.yaml").read_text())["static_resources"]["clusters"]
    (check,) = cluster["health_checks"]
    seconds = {name: float(check[name].removesuffix("s")) for name in ("interval", "timeout")}
    ejected = float(cluster["outlier_detection"]["base_ejection_time"].removesuffix("s"))
    assert ejected > check["unhealthy_threshold"] * sum(seconds.values())
