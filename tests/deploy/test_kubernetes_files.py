"""The Kubernetes manifests as files: the checks that need no kustomize."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from hangtag.cli import main

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
BASE = KUBERNETES / "base"


@pytest.mark.parametrize("name", ["base/deployment.yaml", "kserve/serving-runtime.yaml"])
def test_every_variable_is_an_option_of_the_server(name: str) -> None:
    """The server ignores misspelt variables. That it refuses an invalid value shows that it reads the variable."""
    spec = yaml.safe_load((KUBERNETES / name).read_text())["spec"]
    (container,) = spec.get("containers") or spec["template"]["spec"]["containers"]
    assert "HANGTAG_SERVE_CONNECTION_AGE_SECONDS" in {variable["name"] for variable in container["env"]}
    for variable in container["env"]:
        result = CliRunner().invoke(main, ["serve"], env={variable["name"]: "-1"})
        assert result.exit_code == 2
        option = variable["name"].removeprefix("HANGTAG_SERVE_").lower().replace("_", "-")
        assert f"--{option}" in result.output


@pytest.mark.parametrize("name", ["base/deployment.yaml", "kserve/serving-runtime.yaml"])
def test_the_server_can_write_temporary_files(name: str) -> None:
    """The native transport makes a folder for its socket; the rest of the container is read-only."""
    spec = yaml.safe_load((KUBERNETES / name).read_text())["spec"]
    pod = spec if "containers" in spec else spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (volume,) = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
    assert [each["name"] for each in pod["volumes"] if "emptyDir" in each] == [volume]


def test_the_network_policy_selects_callers_by_expressions() -> None:
    """`includeSelectors` adds labels to every podSelector.matchLabels, a policy's peers included, but no expression."""
    (labels,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["labels"]
    policy = yaml.safe_load((BASE / "network-policy.yaml").read_text())["spec"]
    peers = [peer["podSelector"] for rule in policy["ingress"] for peer in rule["from"] if "podSelector" in peer]
    assert len(peers) == 2
    assert labels["includeSelectors"]
    assert all(set(peer) == {"matchExpressions"} for peer in peers)


def test_the_documented_command_gives_the_operator_the_alerts_unchanged(tmp_path: Path) -> None:
    """Runs docs/deploy.md's command with a fake kubectl that prints its input."""
    (block,) = re.findall(r"```sh\n({\n.*?kubectl apply.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    (tmp_path / "kubectl").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "kubectl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    process = subprocess.run(["sh", "-euc", block], cwd=ROOT, env={"PATH": path}, capture_output=True, check=True)
    manifest = yaml.safe_load(process.stdout)
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["spec"] == yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())
