"""The OpenAPI description: complete, with examples that fit, and kept by a real server."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import one_of
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hangtag.serving.server.transport.http.endpoints.routes import router
from hangtag.serving.server.transport.http.openapi.document import description
from hangtag.serving.server.transport.http.status import STATUS
from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.rest import HEAD_LENGTH, Answer, Rest

pytestmark = pytest.mark.slow

DESCRIPTION = description()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_the_server_returns_it(rest: Rest) -> None:
    assert rest.get("/openapi.json").json == DESCRIPTION


def test_every_route_is_described(served: LiveServer) -> None:
    unused: Any = None
    routes = router(served.server._engine, unused, unused, unused, unused, None, lambda: False, None).routes
    paths = {route.path for route in routes}  # type: ignore[attr-defined]
    paths |= {"/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"}
    assert set(DESCRIPTION["paths"]) == paths


def test_every_status_of_an_error_is_described() -> None:
    described = {int(status) for status in DESCRIPTION["components"]["responses"]}
    assert set(STATUS.values()) - {499} <= described  # 499: the caller has left


def examples(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each schema that has an example beside it, and the example."""
    if isinstance(value, dict):
        if "schema" in value:
            if "example" in value:
                yield value["schema"], value["example"]
            for named in value.get("examples", {}).values():
                yield value["schema"], named["value"]
        for each in value.values():
            yield from examples(each)


def test_every_example_fits_its_schema() -> None:
    found = list(examples(DESCRIPTION))
    assert len(found) > 30
    for schema, example in found:
        jsonschema.Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).validate(example)


INFER = DESCRIPTION["paths"]["/v2/models/{model}/infer"]["post"]
CLASSIFY = DESCRIPTION["paths"]["/v1/classify/{models}"]["post"]


@pytest.mark.parametrize("kind", INFER["requestBody"]["content"])
def test_the_examples_of_inference_are_answered(rest: Rest, kind: str) -> None:
    for name, example in INFER["requestBody"]["content"][kind]["examples"].items():
        if kind == "application/json":
            answer = rest.post("/v2/models/lstm/infer", json.dumps(example["value"]))
        else:
            length = re.search(r"\d+", example["summary"])
            assert length is not None
            body = example["value"].encode("latin-1")
            answer = rest.post("/v2/models/lstm/infer", body, **{HEAD_LENGTH: length[0]})
            assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.outputs["logits"].shape == (1, 10), name
    lengths = {each["value"] for each in INFER["parameters"][1]["examples"].values()}
    assert lengths == {0, len(re.sub(" +$", "", example_of("one image")))}


def example_of(name: str) -> str:
    return str(INFER["requestBody"]["content"]["application/octet-stream"]["examples"][name]["value"])


def test_the_example_of_a_binary_answer_says_what_the_one_in_json_says() -> None:
    content = INFER["responses"]["200"]["content"]
    example = content["application/octet-stream"]["examples"]["logits"]
    length = re.search(r"\d+", example["summary"])
    assert length is not None
    binary = Answer(200, {HEAD_LENGTH: length[0]}, example["value"].encode("latin-1"))
    in_json = Answer(200, {}, json.dumps(content["application/json"]["example"]).encode())
    assert binary.outputs["logits"].tolist() == in_json.outputs["logits"].tolist()


def test_a_form_has_the_fields_that_the_server_knows(rest: Rest) -> None:
    known = rest.post("/v1/classify/lstm?nothing=1").error.partition("there are ")[2].split(", ")
    form = CLASSIFY["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert sorted(form) == sorted(["image", *known])
    assert sorted(each["name"] for each in CLASSIFY["parameters"] if each["in"] == "query") == sorted(known)


def test_every_reference_leads_somewhere() -> None:
    for kind, name in set(re.findall(r"'#/components/(\w+)/(\w+)'", str(DESCRIPTION))):
        assert name in DESCRIPTION["components"][kind]


OPERATIONS: list[Any] = [
    result.ok()  # type: ignore[union-attr]  # it raises for a schema that is not valid
    for result in schemathesis.openapi.from_dict(DESCRIPTION).get_all_operations()
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_the_server_keeps_to_it(served: LiveServer, operation: Any) -> None:
    """Requests that the description allows, and such that it does not, to real models and to others."""
    names = {"model": "free_axis", "models": "classifier", "version": "1"}
    fixed = {name: value for name, value in names.items() if f"{{{name}}}" in operation.path}
    to_real_models = [operation.as_strategy(mode, path_parameters=fixed) for mode in GenerationMode if fixed]
    strategies = [*to_real_models, *(operation.as_strategy(mode) for mode in GenerationMode)]

    @settings(
        max_examples=int(os.environ.get("FUZZ_CASES", 15)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(one_of(*strategies))
    def send(case: Any) -> None:
        response = case.call(base_url=f"http://{served.server.http_address}", timeout=TIMEOUT)
        checks = CHECKS
        if response.status_code == 504:  # the answer to a timeout of microseconds
            assert "timeout" in f"{case.query} {case.body}"
            checks = [check for check in CHECKS if check is not not_a_server_error]
        case.validate_response(response, checks=checks)

    send()
