"""The OpenAPI description is complete, has valid examples, and describes what the server does."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.strategies import one_of
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.kit.live import TIMEOUT, LiveServer
from tests.kit.rest import HEAD_LENGTH, Answer, Rest

OF_A_MODEL = {"": "GET", "/ready": "GET", "/config": "GET", "/stats": "GET", "/infer": "POST"}
OPERATIONS = [
    *(f"GET {path}" for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json")),
    *(f"{method} /v2/models/{{model}}{path}" for path, method in OF_A_MODEL.items()),
    *(f"{method} /v2/models/{{model}}/versions/{{version}}{path}" for path, method in OF_A_MODEL.items()),
    "GET /v2/models/stats",
    "POST /v2/repository/index",
    *(f"POST /v2/repository/models/{{model}}/{action}" for action in ("load", "unload")),
    "POST /v1/classify",
    "POST /v1/classify/{models}",
    "GET /v1/examples/{model}",
]
"""All operations that the server offers to programs."""
STATUSES = {"400", "401", "403", "404", "413", "415", "429", "500", "503", "504"}
"""The status codes of the errors that callers can get."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="session")
def description(served: LiveServer) -> Any:
    with Rest(served.server.http_address) as rest:
        return rest.get("/openapi.json").json


@pytest.fixture(scope="session")
def operations(description: Any) -> dict[str, Any]:
    pairs = [each.ok() for each in schemathesis.openapi.from_dict(description).get_all_operations()]  # type: ignore[union-attr]
    return {each.label: each for each in pairs}


def test_it_describes_all_operations_and_every_status_of_an_error(description: Any, operations: dict[str, Any]) -> None:
    assert operations.keys() == set(OPERATIONS)
    assert description["components"]["responses"].keys() >= STATUSES


def examples(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each example of the description as a pair (schema, example)."""
    if isinstance(value, dict):
        if "schema" in value:
            if "example" in value:
                yield value["schema"], value["example"]
            for named in value.get("examples", {}).values():
                yield value["schema"], named["value"]
        for each in value.values():
            yield from examples(each)


def test_every_example_fits_its_schema_and_every_reference_leads_somewhere(description: Any) -> None:
    pairs = list(examples(description))
    assert len(pairs) > 30
    for schema, example in pairs:
        jsonschema.Draft202012Validator({**schema, "components": description["components"]}).validate(example)
    for kind, name in set(re.findall(r"'#/components/(\w+)/(\w+)'", str(description))):
        assert name in description["components"][kind]


def length_in(summary: str) -> str:
    """The length of the JSON part of a binary example, read from the example's summary."""
    length = re.search(r"\d+", summary)
    assert length is not None
    return length[0]


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
def test_the_examples_of_inference_are_answered(description: Any, rest: Rest, kind: str) -> None:
    infer = description["paths"]["/v2/models/{model}/infer"]["post"]
    lengths = set()
    for name, example in infer["requestBody"]["content"][kind]["examples"].items():
        if kind == "application/json":
            answer = rest.post("/v2/models/lstm/infer", json.dumps(example["value"]))
        else:
            length = length_in(example["summary"])
            lengths.add(int(length))
            answer = rest.post("/v2/models/lstm/infer", example["value"].encode("latin-1"), **{HEAD_LENGTH: length})
            assert answer.headers["content-type"] == kind
        assert answer.outputs["logits"].shape == (1, 10), name
    if lengths:
        assert {each["value"] for each in infer["parameters"][1]["examples"].values()} == lengths


def test_the_example_of_a_binary_answer_says_what_the_one_in_json_says(description: Any) -> None:
    content = description["paths"]["/v2/models/{model}/infer"]["post"]["responses"]["200"]["content"]
    example = content["application/octet-stream"]["examples"]["logits"]
    binary = Answer(200, {HEAD_LENGTH: length_in(example["summary"])}, example["value"].encode("latin-1"))
    in_json = Answer(200, {}, json.dumps(content["application/json"]["example"]).encode())
    assert binary.outputs["logits"].tolist() == in_json.outputs["logits"].tolist()


def test_a_form_has_the_fields_that_the_server_knows(description: Any, rest: Rest) -> None:
    classify = description["paths"]["/v1/classify/{models}"]["post"]
    known = rest.post("/v1/classify/lstm?nothing=1").error.partition("known parameters: ")[2].split(", ")
    form = classify["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert sorted(form) == sorted(["image", *known])
    assert sorted(each["name"] for each in classify["parameters"] if each["in"] == "query") == sorted(known)


@pytest.mark.parametrize("label", OPERATIONS)
def test_the_server_keeps_to_it(served: LiveServer, operations: dict[str, Any], label: str) -> None:
    """Send valid and invalid requests that follow the description, to existing and to missing models."""
    operation = operations[label]
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
        assume((case.path_parameters or {}).get("model") != "stats")  # another operation has the path /v2/models/stats
        response = case.call(base_url=f"http://{served.server.http_address}", timeout=TIMEOUT)
        checks = CHECKS
        if response.status_code == 504:  # a timeout of a few microseconds has passed
            assert "timeout" in f"{case.query} {case.body}"
            checks = [check for check in CHECKS if check is not not_a_server_error]
        case.validate_response(response, checks=checks)

    send()
