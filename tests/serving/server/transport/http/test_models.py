"""Health, metadata, statistics and the repository over HTTP say what gRPC says."""

from importlib import metadata
from pathlib import Path

import pytest
from google.protobuf import json_format
from prometheus_client.parser import text_string_to_metric_families

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import LiveServer, index, request
from tests.kit.rest import Rest

pytestmark = pytest.mark.slow


def test_health_and_the_server(rest: Rest) -> None:
    assert rest.get("/v2/health/live").json == {"live": True}
    assert rest.get("/v2/health/ready").json == {"ready": True}
    server = rest.get("/v2").json
    assert (server["name"], server["version"]) == ("hangtag", metadata.version("hangtag"))
    assert "binary_tensor_data" in server["extensions"]


@pytest.mark.parametrize("path", ["classifier", "classifier/versions/12"])
def test_a_model_is_described_as_by_grpc(served: LiveServer, rest: Rest, path: str) -> None:
    model = served.inference.ModelMetadata(pb.ModelMetadataRequest(name="classifier"))
    described = rest.get(f"/v2/models/{path}").json
    assert json_format.ParseDict(described, pb.ModelMetadataResponse()) == model
    assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    config = served.inference.ModelConfig(pb.ModelConfigRequest(name="classifier")).config
    configured = rest.get(f"/v2/models/{path}/config").json
    assert json_format.ParseDict(configured, pb.ModelConfig()) == config
    assert (configured["max_batch_size"], configured["input"][0]["dims"]) == (16, [28, 28])  # numbers, not texts
    assert rest.get(f"/v2/models/{path}/ready").json == {"name": "classifier", "ready": True}


@pytest.mark.parametrize("rest_of_path", ["", "/ready", "/config", "/stats"])
def test_a_model_that_is_not_served(rest: Rest, rest_of_path: str) -> None:
    answer = rest.get(f"/v2/models/nobody{rest_of_path}")
    assert (answer.status, answer.error[:18]) == (404, "no model 'nobody' ")
    answer = rest.get(f"/v2/models/classifier/versions/3{rest_of_path}")
    assert (answer.status, answer.error[:31]) == (404, "version '3' of 'classifier' is ")


def test_statistics_are_grpcs(served: LiveServer, rest: Rest) -> None:
    rest.infer(request("gather", index=index(1, 2)))
    of_all = rest.get("/v2/models/stats").json["model_stats"]
    assert [each["name"] for each in of_all].count("gather") == 1
    assert len(of_all) == 12
    (one,) = rest.get("/v2/models/gather/versions/1/stats").json["model_stats"]
    assert json_format.ParseDict(one, pb.ModelStatistics()) == served.statistics("gather")
    assert one["inference_count"] >= 2


def test_the_index_lists_every_model(served: LiveServer, rest: Rest) -> None:
    listed = rest.post("/v2/repository/index").json
    by_grpc = served.inference.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert [(each["name"], each["version"], each["state"]) for each in listed] == [
        (each.name, each.version, each.state) for each in by_grpc
    ]
    assert rest.post("/v2/repository/index", '{"ready": true}').json == listed


def test_the_metrics_are_there(rest: Rest) -> None:
    rest.infer(request("gather", index=index(1)))
    answer = rest.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    counts = {each.labels["model"]: each.value for each in families["nv_inference_count"].samples}
    assert counts["gather"] >= 1
    assert rest.get("/metrics", accept="application/openmetrics-text; version=1.0.0").body.endswith(b"# EOF\n")
    unreadable = rest.get("/metrics", accept="application/openmetrics-text; version=no-number")
    assert (unreadable.status, unreadable.error[:17]) == (400, "the Accept header")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/v2/models/gather/infer", "/v2/models/gather/versions/1/infer"]
)
def test_a_method_that_a_path_does_not_take(rest: Rest, method: str, path: str) -> None:
    answer = rest.ask(method, path, b"", {})
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "POST" in answer.error


def test_a_path_that_does_not_exist(rest: Rest) -> None:
    assert "/openapi.json" in rest.get("/v3/models").error
    assert rest.ask("HEAD", "/v2/health/live", b"", {}).status == 200


def test_failures_are_counted_by_code_and_by_models_that_there_are(repository: Path) -> None:
    config = ServerConfig(models=repository, port=0, http_port=0, model_control="explicit", load_model=("gather",))
    with LiveServer(config) as live, Rest(live.server.http_address) as rest:
        with live.broken("gather"):
            assert rest.infer(request("gather", index=index(1))).status == 500
        assert rest.infer(request("gather", index=index(99))).status == 400
        assert rest.post("/v1/classify/gather", b"").status == 400
        assert rest.post("/v2/models/gather/infer", b"{").status == 400
        assert rest.infer(request("made-up", index=index(1))).status == 404
        assert rest.infer(request("gather", index=index(1))).status == 200
        families = {one.name: one for one in text_string_to_metric_families(rest.get("/metrics").body.decode())}
    counts = {
        (sample.labels["model"], sample.labels["code"]): sample.value
        for sample in families["hangtag_request_seconds"].samples
        if sample.name.endswith("_count") and sample.value
    }
    assert counts == {
        ("gather", "INTERNAL"): 1,
        ("gather", "INVALID_ARGUMENT"): 3,
        ("gather", "OK"): 1,
        ("", "NOT_FOUND"): 1,
    }
