"""Kubernetes' schemas and KServe's SDK accept the manifests that kustomize builds from deploy/kubernetes."""

import ast
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hangtag.serving.server.config.server_config import ServerConfig
from tests.deploy.engine.stack import ROOT, docker

PEERS = ROOT / ".venv-peers"


@cache
def _models() -> Path:
    folders = list(PEERS.glob("lib/python3*/site-packages/kserve/models"))
    assert folders, f"KServe's SDK is not in {PEERS}: run 'make peers'"
    return folders[0]


@cache
def fields(model: str) -> dict[str, str]:
    """Returns the fields of a class: JSON name -> type as the SDK writes it (str, list[V1Container], …)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model).lower()
    tree = ast.parse((_models() / f"{snake}.py").read_text())
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    return {tables["attribute_map"][name]: kind for name, kind in tables["openapi_types"].items()}


def problems(value: Any, kind: str, where: str = "") -> list[str]:
    """Returns a line for each field that the SDK does not know, and for each value whose type differs from the SDK's.

    Kubernetes' own types, such as V1Container, are checked by Kubernetes' schemas instead.

    Args:
        value: The part of the manifest to check.
        kind: The SDK's type for this part.
        where: This part's path in the manifest. The returned lines begin with this path.
    """
    if items := re.fullmatch(r"list\[(\w+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is not a list"]
        return [line for i, item in enumerate(value) for line in problems(item, items[1], f"{where}[{i}]")]
    if kind in ("str", "int", "bool", "float"):
        return [] if type(value).__name__ == kind else [f"{where}: {value!r} is not of type {kind}"]
    if not re.match(r"V1(alpha|beta)1", kind):
        return []
    known = fields(kind)
    unknown = [f"{where}.{name}: {kind} has no such field" for name in value if name not in known]
    return unknown + [
        line for name in value if name in known for line in problems(value[name], known[name], f"{where}.{name}")
    ]


FOLDER = ROOT / "deploy/kubernetes"
KUSTOMIZATIONS = ("base", "gpu", "kserve")
VERSIONS = ("1.32", "1.35")
# Kubernetes has no schemas for these custom resources.
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService"}
Document = dict[str, Any]


@pytest.fixture(scope="module", params=KUSTOMIZATIONS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """The manifests of one kustomization."""
    return build(request.param)


def build(name: str, folder: Path = FOLDER) -> list[Document]:
    """Runs `kubectl kustomize` on deploy/kubernetes/NAME."""
    mount = f"{folder}:/kubernetes:ro"
    text = docker("run", "--rm", "--volume", mount, "hangtag:stand-ins", "kubectl", "kustomize", f"/kubernetes/{name}")
    return list(yaml.safe_load_all(text))


def of_kind(documents: list[Document], kind: str) -> Document:
    (match,) = [document for document in documents if document["kind"] == kind]
    return match


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_manifests(documents: list[Document], version: str) -> None:
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


def test_pods_meet_the_restricted_standard_and_have_limits(documents: list[Document]) -> None:
    """The manifests meet Kubernetes' Pod Security Standard "restricted"."""
    for document in documents:
        pod = document["spec"].get("template", document).get("spec")
        for container in pod.get("containers", []):
            context = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] == 10001
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
            assert re.fullmatch(r"hangtag:(cpu|gpu)", container["image"])


def test_gpu_pods_run_the_gpu_image_when_the_base_names_a_registry(tmp_path: Path) -> None:
    """Users set their registry in the kustomize base (docs/how-to/kubernetes.md), which deploys the CPU image."""
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    base = folder / "base/kustomization.yaml"
    base.write_text(base.read_text().replace("newName: hangtag", "newName: registry.example/hangtag"))
    for name, image in (("base", "registry.example/hangtag:cpu"), ("gpu", "hangtag:gpu")):
        (container,) = of_kind(build(name, folder), "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image


def test_probes_call_the_grpc_port_and_liveness_is_more_patient_than_readiness(documents: list[Document]) -> None:
    for document in documents:
        pod = document["spec"].get("template", document).get("spec")
        for container in pod.get("containers", []):
            (port,) = (port["containerPort"] for port in container["ports"] if port["name"] in ("grpc", "h2c"))
            probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
            assert all(probe["grpc"] == {"port": port} for probe in probes)
            _, readiness, liveness = (probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
            assert readiness < liveness


def test_a_rollout_starts_the_new_pod_first_except_on_gpus() -> None:
    strategies = {name: of_kind(build(name), "Deployment")["spec"]["strategy"] for name in ("base", "gpu")}
    assert strategies["base"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert strategies["gpu"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_replicas_are_spread_and_evicted_one_at_a_time(name: str) -> None:
    documents = build(name)
    template = of_kind(documents, "Deployment")["spec"]["template"]
    constraints = template["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"].rpartition("/")[2] for constraint in constraints] == ["hostname", "zone"]
    for constraint in constraints:
        assert constraint["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert of_kind(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind(documents, "HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_selectors_and_ports_match_the_deployment(name: str) -> None:
    documents = build(name)
    deployment = of_kind(documents, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}

    service = of_kind(documents, "Service")["spec"]
    assert service["clusterIP"] == "None"
    assert {port["targetPort"] for port in service["ports"]} <= ports
    policy = of_kind(documents, "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} <= ports
    selectors = [service["selector"], policy["podSelector"]["matchLabels"]]
    selectors += [
        of_kind(documents, kind)["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget", "Deployment")
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/instance"] == {"base": "hangtag", "gpu": "hangtag-gpu"}[name]
    monitor = of_kind(documents, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= of_kind(documents, "Service")["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {port["name"] for port in service["ports"]}
    target = of_kind(documents, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]


def test_the_grace_period_covers_prestop_and_drain() -> None:
    pod = of_kind(build("base"), "Deployment")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + ServerConfig().drain_seconds


def test_the_adapter_provides_the_autoscaler_s_metric() -> None:
    metric = of_kind(build("base"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    rules = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == [metric]


def test_kserve_s_sdk_has_every_field() -> None:
    misspelt = {"protocolVersion": ["grpc-v2"], "multiModel": "false"}
    assert len(problems(misspelt, "V1alpha1ServingRuntimeSpec")) == 2
    documents = build("kserve")
    for kind, model in (("ServingRuntime", "V1alpha1ServingRuntime"), ("InferenceService", "V1beta1InferenceService")):
        assert problems(of_kind(documents, kind), model) == []
    runtime = of_kind(documents, "ServingRuntime")
    # Kubernetes' schema for a Pod also applies to the containers of a ServingRuntime.
    spec = {"containers": runtime["spec"]["containers"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    model = of_kind(documents, "InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"].items() <= runtime["spec"]["supportedModelFormats"][0].items()
