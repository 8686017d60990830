"""The transports give the same answers, to the bit."""

from collections.abc import Iterator

import numpy as np
import pytest
from google.protobuf import json_format

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_label_sets, shipped
from tests.kit.live import TIMEOUT, LiveServer, request
from tests.kit.rest import Rest, tensor

pytestmark = pytest.mark.slow

GARMENT = (shipped.MODELS.parent / "examples/garments/coat-1.png").read_bytes()
Servers = list[LiveServer]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One server for each of gRPC's transports, both with HTTP beside it."""
    models = tmp_path_factory.mktemp("models")
    onnx_label_sets.publish_all(models)
    for name in ("lstm", "cnn"):
        (models / name).symlink_to(shipped.MODELS / name)
    settings = {"models": models, "port": 0, "http_port": 0, "instances": 1, "intra_op_threads": 1}
    with (
        LiveServer(ServerConfig(transport="native", **settings)) as native,  # type: ignore[arg-type]
        LiveServer(ServerConfig(transport="grpc", **settings)) as other,  # type: ignore[arg-type]
    ):
        yield [native, other]


@pytest.mark.parametrize("model", ["lstm", "cnn"])
@pytest.mark.parametrize("count", [1, 5])
def test_inference(servers: Servers, model: str, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    sent = request(model, image=images)
    answers: set[tuple[bytes, ...]] = set()
    for live in servers:
        answers.add(tuple(live.inference.ModelInfer(sent, timeout=TIMEOUT).raw_output_contents))
        with Rest(live.server.http_address) as rest:
            as_binary = rest.infer(sent).outputs
            as_json = rest.infer_json(model, tensor("image", "UINT8", [count, 28, 28], images.tolist())).outputs
            answers.add(tuple(array.tobytes() for array in as_binary.values()))
            answers.add(tuple(array.tobytes() for array in as_json.values()))
    assert len(answers) == 1


@pytest.mark.parametrize("model", ["lstm", "path", "half"])
def test_classification(servers: Servers, model: str) -> None:
    """Also of models that predict sets of labels, whose answers have their own fields."""
    answers = []
    for live in servers:
        answers.append(live.classifier.Classify(pb.ClassifyRequest(model_name=model, encoded=GARMENT), timeout=TIMEOUT))
        with Rest(live.server.http_address) as rest:
            answer = rest.post(f"/v1/classify/{model}", GARMENT)
            assert answer.status == 200, answer.body
            answers.append(json_format.ParseDict(answer.json, pb.ClassifyResponse()))
    for each in answers:
        each.ClearField("timings")
    assert all(each == answers[0] for each in answers)
    assert (answers[0].task == pb.TASK_MULTI_LABEL) == (model != "lstm")
