"""What can be said of the manifests before kustomize builds them."""

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
    """Of others it would take no notice. Each is refused here for what it says, and by its own name."""
    spec = yaml.safe_load((KUBERNETES / name).read_text())["spec"]
    (container,) = spec.get("containers") or spec["template"]["spec"]["containers"]
    assert "HANGTAG_SERVE_CONNECTION_AGE_SECONDS" in {variable["name"] for variable in container["env"]}
    for variable in container["env"]:
        result = CliRunner().invoke(main, ["serve"], env={variable["name"]: "-1"})
        assert result.exit_code == 2
        option = variable["name"].removeprefix("HANGTAG_SERVE_").lower().replace("_", "-")
        assert f"--{option}" in result.output


def test_no_caller_is_selected_by_labels_that_kustomize_would_add_to() -> None:
    """`includeSelectors` reaches every podSelector.matchLabels, also those of a policy's peers."""
    (labels,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["labels"]
    policy = yaml.safe_load((BASE / "network-policy.yaml").read_text())["spec"]
    peers = [peer["podSelector"] for rule in policy["ingress"] for peer in rule["from"] if "podSelector" in peer]
    assert len(peers) == 2
    assert labels["includeSelectors"]
    assert all(set(peer) == {"matchExpressions"} for peer in peers)


def test_the_operator_gets_the_alerts_as_they_are(tmp_path: Path) -> None:
    """By docs/deploy.md's command, with a kubectl that only shows what it was given."""
    (block,) = re.findall(r"```sh\n({\n.*?kubectl apply.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    (tmp_path / "kubectl").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "kubectl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-euc", block], cwd=ROOT, env={"PATH": path}, capture_output=True, check=True)
    made = yaml.safe_load(done.stdout)
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())
