"""A server behind Envoy fulfils the documented contracts of SageMaker and Vertex AI."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.kit import rest, shipped
from tests.kit.command import Serving, hangtag, last_line, serving
from tests.kit.onnx_models import from_text, publish, two_inputs
from tests.kit.rest import Answer, Rest
from tests.kit.waiting import pass_time, until

COAT = (Path(__file__).parents[5] / "examples/garments/coat-1.png").read_bytes()
BLACK = np.zeros((28, 28), np.uint8)
TRITONS = "application/vnd.sagemaker-triton.binary+json;json-header-size="
SEVERAL: dict[str, Any] = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_BIND_TO_PORT": "0"}


def ask(server: Serving, method: str, path: str, body: Any = b"", content_type: str = "application/json") -> Answer:
    address = server.http_address.replace("0.0.0.0", "127.0.0.1")
    with Rest(address) as connection:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return connection.ask(method, path, sent, {"content-type": content_type})


@pytest.fixture(scope="module")
def sagemaker() -> Iterator[Serving]:
    """A server for SageMaker with several models, of which only ``cnn`` answers."""
    arguments = (
        "--platform",
        "sagemaker",
        "--platform-model",
        "cnn",
        "--models",
        shipped.MODELS,
        "--port",
        "0",
        "--metrics-port",
        "-1",
    )
    with serving(*arguments, SAGEMAKER_BIND_TO_PORT="0") as server:
        yield server


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for Vertex AI with a single model, on paths that the platform chose."""
    models = tmp_path_factory.mktemp("models")
    (models / "cnn").symlink_to(shipped.MODELS / "cnn")
    paths: dict[str, Any] = {"AIP_HEALTH_ROUTE": "/is-it-well", "AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict"}
    variables: dict[str, Any] = {"AIP_HTTP_PORT": "0", "AIP_STORAGE_URI": str(models), **paths}
    with serving("--platform", "vertex", "--port", "0", "--metrics-port", "-1", **variables) as server:
        yield server


@pytest.fixture
def multi_model() -> Iterator[Serving]:
    with serving("--platform", "sagemaker", "--port", "0", "--metrics-port", "-1", **SEVERAL) as server:
        yield server


def black(**more: Any) -> dict[str, Any]:
    return {"inputs": [rest.tensor("image", "UINT8", [1, 28, 28], BLACK.ravel().tolist())], **more}


def test_sagemaker_gets_json_binary_tensors_and_pictures_answered(sagemaker: Serving) -> None:
    assert ask(sagemaker, "GET", "/ping").status == 200
    outputs = ask(sagemaker, "POST", "/invocations", black()).outputs
    head: dict[str, Any] = {
        "inputs": [rest.tensor("image", "UINT8", [1, 28, 28], None)],
        "parameters": {"binary_data_output": True},
    }
    del head["inputs"][0]["data"]
    head["inputs"][0]["parameters"] = {"binary_data_size": BLACK.size}
    text = json.dumps(head).encode()
    binary = ask(sagemaker, "POST", "/invocations", text + BLACK.tobytes(), f"{TRITONS}{len(text)}")
    shown = re.fullmatch(re.escape(TRITONS) + r"(\d+)", binary.headers["content-type"])
    assert shown
    assert json.loads(binary.body[: int(shown[1])])["model_name"] == "cnn"
    assert np.array_equal(binary.outputs["logits"], outputs["logits"])
    answer = ask(sagemaker, "POST", "/invocations", COAT, "image/png").json
    assert (answer["model_name"], answer["labels"][0]["label"]) == ("cnn", "Coat")
    assert ask(sagemaker, "POST", "/invocations", b"no picture", "image/png").status == 400


def test_sagemaker_loads_lists_and_unloads_models(multi_model: Serving, tmp_path: Path) -> None:
    for name, file in (("coats", "2/model.onnx"), ("boots", "any-name.onnx")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        shutil.copy(shipped.latest("cnn"), tmp_path / name / file)
        loaded = ask(multi_model, "POST", "/models", {"model_name": name, "url": str(tmp_path / name)})
        assert loaded.status == 200
        assert loaded.json == {"modelName": name, "modelUrl": str(tmp_path / name)}
        assert ask(multi_model, "POST", f"/models/{name}/invoke", COAT, "image/png").json["model_name"] == name
    for folder in ("coats", "boots"):
        asked = {"model_name": "coats", "url": str(tmp_path / folder)}
        assert ask(multi_model, "POST", "/models", asked).status == 409
    assert [path.name for path in (tmp_path / "coats").iterdir()] == ["2"]
    assert [each["modelName"] for each in ask(multi_model, "GET", "/models").json["models"]] == ["boots", "coats"]
    assert ask(multi_model, "GET", "/models/boots").json["modelUrl"] == str(tmp_path / "boots")
    assert ask(multi_model, "DELETE", "/models/boots").status == 200
    for method, path in (("GET", "/models/boots"), ("DELETE", "/models/boots"), ("POST", "/models/boots/invoke")):
        assert ask(multi_model, method, path, black()).status == 404


@pytest.mark.parametrize("file", ["1/model.onnx", "any-name.onnx"])
def test_of_simultaneous_loads_of_a_model_one_succeeds(multi_model: Serving, tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    shutil.copy(shipped.latest("cnn"), tmp_path / file)
    asked = {"model_name": "coats", "url": str(tmp_path)}
    with ThreadPoolExecutor() as callers:
        answers = list(callers.map(lambda _: ask(multi_model, "POST", "/models", asked), range(4)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]


def test_a_load_whose_caller_leaves_can_be_repeated(tmp_path: Path) -> None:
    file = tmp_path / "1/model.onnx"
    file.parent.mkdir()
    file.write_bytes(b"no model")
    asked = {"model_name": "coats", "url": str(tmp_path)}
    ports = ("--port", "0", "--metrics-port", "-1")
    with serving("--platform", "sagemaker", *ports, "--trial-load-seconds", "60", **SEVERAL) as server:
        with Rest(server.http_address.replace("0.0.0.0", "127.0.0.1")) as connection:
            connection.connection.request("POST", "/models", json.dumps(asked))
            pass_time(0.2)
        until(lambda: ask(server, "POST", "/models", asked).status == 400)
        shutil.copy(shipped.latest("cnn"), file)
        assert ask(server, "POST", "/models", asked).status == 200


def test_a_model_that_does_not_load_leaves_nothing_behind(multi_model: Serving, tmp_path: Path) -> None:
    assert "neither" in ask(multi_model, "POST", "/models", {"model_name": "none", "url": str(tmp_path)}).error
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    asked = {"model_name": "broken", "url": str(tmp_path)}
    assert ask(multi_model, "POST", "/models", asked).status == 400
    assert ask(multi_model, "GET", "/models").json == {"models": []}
    shutil.copy(shipped.latest("cnn"), tmp_path / "broken.onnx")
    assert ask(multi_model, "POST", "/models", asked).status == 200


def test_a_model_that_needs_more_memory_than_there_is_gets_the_status_for_it(
    multi_model: Serving, tmp_path: Path
) -> None:
    huge = from_text(
        """(float[batch] x) => (float[batch] y) <int64[1] size = {4000000000000}> {
            zeros = ConstantOfShape(size)
            place = Cast <to = 7> (x)
            y = Gather(zeros, place)
        }"""
    )
    onnx.save(huge, tmp_path / "huge.onnx")
    answer = ask(multi_model, "POST", "/models", {"model_name": "huge", "url": str(tmp_path)})
    assert answer.status == 507, answer.error


def test_vertex_gets_a_prediction_for_each_instance(vertex: Serving) -> None:
    assert ask(vertex, "GET", "/is-it-well").status == 200
    predict = "/v1/endpoints/7:predict"
    sent = {"instances": [BLACK.tolist(), {"image": BLACK.tolist()}, BLACK.tolist()]}
    arrays = ask(vertex, "POST", predict, sent).json["predictions"]
    assert [len(each["probabilities"]) for each in arrays] == [10, 10, 10]
    picture = {"b64": base64.b64encode(COAT).decode()}
    asked = {"instances": [picture, picture], "parameters": {"top_k": 2}}
    pictures = ask(vertex, "POST", predict, asked).json["predictions"]
    assert [[label["label"] for label in each["labels"]] for each in pictures] == [["Coat", "Shirt"]] * 2
    refused = [
        {},
        {"instances": []},
        {"instances": [{"b64": "?"}]},
        {"instances": [[1, 2]]},
        {"instances": [picture], "parameters": {"top_k": -1}},
    ]
    assert {ask(vertex, "POST", predict, each).status for each in refused} == {400}


def test_vertex_takes_several_inputs_by_name(tmp_path: Path) -> None:
    publish(tmp_path, "sums", two_inputs())
    variables: dict[str, Any] = {"AIP_HTTP_PORT": "0", "AIP_STORAGE_URI": str(tmp_path)}
    with serving("--platform", "vertex", "--port", "0", "--metrics-port", "-1", **variables) as server:
        instances = [{"a": [1, 2, 3], "b": [1, 1, 1]}, {"a": [0, 0, 0], "b": [5, 6, 7]}]
        predictions = ask(server, "POST", "/predict", {"instances": instances}).json["predictions"]
        assert predictions == [{"sum": [2, 3, 4], "double": [2, 2, 2]}, {"sum": [5, 6, 7], "double": [10, 12, 14]}]
        for instance in ({"a": [1, 2, 3]}, [1, 2, 3]):
            assert "a value for 'a', 'b'" in ask(server, "POST", "/predict", {"instances": [instance]}).error


@pytest.mark.parametrize(
    ("platform", "variables", "words"),
    [
        ("vertex", {"AIP_HTTP_PORT": "http"}, "AIP_HTTP_PORT is 'http'"),
    ],
)
def test_a_platform_that_cannot_be_is_refused(platform: str, variables: dict[str, Any], words: str) -> None:
    done = hangtag("serve", "--platform", platform, exit_codes={1}, **variables)
    assert words in last_line(done.stderr)


def test_the_model_that_answers_has_to_be_named_among_several() -> None:
    arguments = ("--platform", "sagemaker", "--models", shipped.MODELS, "--port", "0", "--metrics-port", "-1")
    with serving(*arguments, SAGEMAKER_BIND_TO_PORT="0") as server:
        assert "--platform-model NAME" in ask(server, "POST", "/invocations", black()).error
