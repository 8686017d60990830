"""What can be said of the manifests before kustomize builds them."""

from pathlib import Path

import yaml

BASE = Path(__file__).parents[2] / "deploy/kubernetes/base"


def test_no_caller_is_selected_by_labels_that_kustomize_would_add_to() -> None:
    """`includeSelectors` reaches every podSelector.matchLabels, also those of a policy's peers."""
    (labels,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["labels"]
    policy = yaml.safe_load((BASE / "network-policy.yaml").read_text())["spec"]
    peers = [peer["podSelector"] for rule in policy["ingress"] for peer in rule["from"] if "podSelector" in peer]
    assert len(peers) == 2
    assert labels["includeSelectors"]
    assert all(set(peer) == {"matchExpressions"} for peer in peers)
