"""What kustomize makes of deploy/kubernetes is valid: by Kubernetes' schemas, and KServe's kinds by KServe's SDK."""

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hangtag.serving.server.config.server_config import ServerConfig
from tests.deploy.engine.stack import ROOT, docker
from tests.deploy.kserve_fields import problems

FOLDER = ROOT / "deploy/kubernetes"
KUSTOMIZATIONS = ("base", "gpu", "kserve")
VERSIONS = ("1.32", "1.35")
# Custom kinds, for which Kubernetes has no schema.
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService"}
Document = dict[str, Any]


@pytest.fixture(scope="module", params=KUSTOMIZATIONS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return built(request.param)


def built(name: str, folder: Path = FOLDER) -> list[Document]:
    mount = f"{folder}:/kubernetes:ro"
    text = docker("run", "--rm", "--volume", mount, "hangtag:stand-ins", "kubectl", "kustomize", f"/kubernetes/{name}")
    return list(yaml.safe_load_all(text))


def of_kind(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_valid(documents: list[Document], version: str) -> None:
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


def test_pods_are_restricted(documents: list[Document]) -> None:
    """By the Pod Security Standard "restricted", and sized."""
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


def test_pods_on_gpus_get_their_own_image_whatever_the_base_s_is_called(tmp_path: Path) -> None:
    """Else whoever gives the base an image of a registry, as docs/deploy.md says, has a GPU's pods serve on the CPU."""
    copied = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    base = copied / "base/kustomization.yaml"
    base.write_text(base.read_text().replace("newName: hangtag", "newName: registry.example/hangtag"))
    for name, image in (("base", "registry.example/hangtag:cpu"), ("gpu", "hangtag:gpu")):
        (container,) = of_kind(built(name, copied), "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image


def test_who_asks_a_pod_about_its_health(documents: list[Document]) -> None:
    """Kubernetes' own gRPC probes, at the port of the calls: liveness more patient than readiness."""
    for document in documents:
        pod = document["spec"].get("template", document).get("spec")
        for container in pod.get("containers", []):
            port = container["ports"][0]["containerPort"]
            probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
            assert all(probe["grpc"] == {"port": port} for probe in probes)
            _, readiness, liveness = (probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
            assert readiness < liveness


def test_a_rollout_adds_a_pod_first_but_where_it_would_wait_for_a_gpu() -> None:
    strategies = {name: of_kind(built(name), "Deployment")["spec"]["strategy"] for name in ("base", "gpu")}
    assert strategies["base"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert strategies["gpu"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_replicas_are_spread_and_leave_one_at_a_time(name: str) -> None:
    documents = built(name)
    template = of_kind(documents, "Deployment")["spec"]["template"]
    spread = template["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"].rpartition("/")[2] for one in spread] == ["hostname", "zone"]
    assert all(one["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items() for one in spread)
    assert of_kind(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind(documents, "HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_the_parts_find_one_another(name: str) -> None:
    documents = built(name)
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
    monitored = of_kind(documents, "ServiceMonitor")["spec"]
    assert monitored["selector"]["matchLabels"].items() <= of_kind(documents, "Service")["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitored["endpoints"]} <= {port["name"] for port in service["ports"]}
    target = of_kind(documents, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]


@pytest.mark.parametrize("name", ["base", "gpu"])
def test_who_may_call(name: str) -> None:
    """Kustomize adds common labels to selectors of pods: to the callers' it must not, or only servers could call."""
    calls, scrapes = of_kind(built(name), "NetworkPolicy")["spec"]["ingress"]
    client = {"matchExpressions": [{"key": "hangtag-client", "operator": "In", "values": ["true"]}]}
    namespace = {"matchLabels": {"hangtag-client": "true"}}
    assert calls["from"] == [{"podSelector": client}, {"namespaceSelector": namespace, "podSelector": client}]
    assert scrapes["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_the_pod_outlives_its_drain() -> None:
    pod = of_kind(built("base"), "Deployment")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + ServerConfig().drain_seconds


def test_the_autoscaler_s_metric_is_made_by_the_adapter() -> None:
    metric = of_kind(built("base"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    rules = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert [rule["name"]["as"] for rule in rules] == [metric]


def test_kserve_knows_every_field() -> None:
    documents = built("kserve")
    for kind, model in (("ServingRuntime", "V1alpha1ServingRuntime"), ("InferenceService", "V1beta1InferenceService")):
        assert problems(of_kind(documents, kind), model) == []
    runtime = of_kind(documents, "ServingRuntime")
    # A runtime's containers are Kubernetes' own.
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": runtime["spec"]["containers"]},
    }
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    model = of_kind(documents, "InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"].items() <= runtime["spec"]["supportedModelFormats"][0].items()
