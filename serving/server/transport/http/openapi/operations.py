"""The operations of each path: their parameters, requests, responses and examples."""

from typing import Any

from hangtag.serving.server.transport.http.openapi import classification, inference
from hangtag.serving.server.transport.http.openapi.schemas import reference

Operation = dict[str, Any]

_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_ALWAYS = ("401", "405", "408", "431", "500", "503")
_WITH_BODY = ("400", "413", "415", "429")
_OF_MODEL = ("404",)
_COMPUTING = ("400", "404", "413", "415", "429", "504")


def _json(schema: str, example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": reference(schema), "example": example}}


def _operation(
    name: str,
    summary: str,
    content: dict[str, Any],
    errors: tuple[str, ...] = (),
    *,
    parameters: tuple[Any, ...] = (),
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Operation:
    described = {key: {"description": about, "schema": {"type": "string"}} for key, about in (headers or {}).items()}
    success = {"description": "Success.", "content": content, **({"headers": described} if described else {})}
    responses = {code: {"$ref": f"#/components/responses/{code}"} for code in sorted({*errors, *_ALWAYS})}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": body} if body else {}),
        "responses": {"200": success, **responses},
    }


_COST_HEADERS = {
    "Hangtag-Model": "The model that answered, percent-encoded; of a route the members that did.",
    "Hangtag-Model-Version": "Its version.",
    "Hangtag-Queue-Ns": "Nanoseconds in the queue.",
    "Hangtag-Compute-Ns": "Nanoseconds until the batch was computed.",
    "Hangtag-Batch-Size": "Samples computed together.",
    "Hangtag-Stage": "Of a route: the stage, from 1, that answered; one for each sample where they differ.",
    "Hangtag-Stages": "Of a route: what each stage cost.",
    "Hangtag-Unsure": "Of a cascade: samples with an unsure answer, since the next model had no time or place.",
    "Server-Timing": "The same times in milliseconds, for browsers.",
}


def _classify(name: str, summary: str, schema: dict[str, Any], example: Any, *parameters: Any) -> Operation:
    content = {"application/json": {"schema": schema, "example": example}}
    return _operation(
        name,
        summary,
        content,
        _COMPUTING,
        parameters=(*parameters, *classification.PARAMETERS),
        body=classification.REQUEST,
        headers=_COST_HEADERS if parameters else None,
    )


def _of_model(path: str, suffix: str, *parameters: Any) -> dict[str, dict[str, Operation]]:
    """The paths of a model, or of one version of it."""
    metadata = {
        "name": "lstm",
        "versions": ["2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    config = {"name": "lstm", "max_batch_size": 64, "input": [], "output": []}
    about = (_OF_MODEL, parameters)

    def get(name: str, summary: str, content: dict[str, Any]) -> dict[str, Operation]:
        return {"get": _operation(f"{name}{suffix}", summary, content, about[0], parameters=about[1])}

    return {
        path: get("modelMetadata", "Describe a model.", _json("ModelMetadata", metadata)),
        f"{path}/ready": get(
            "modelReady", "Say whether a model serves.", _json("ModelReady", {"name": "lstm", "ready": True})
        ),
        f"{path}/config": get("modelConfig", "Say how a model is run.", _json("ModelConfig", config)),
        f"{path}/stats": get("modelStatistics", "Count what a model did.", _json("Statistics", {"model_stats": []})),
        f"{path}/infer": {
            "post": _operation(
                f"infer{suffix}",
                "Compute a model's outputs.",
                inference.RESPONSE,
                _COMPUTING,
                parameters=(*parameters, *inference.PARAMETERS),
                body=inference.REQUEST,
                headers={**_COST_HEADERS, **inference.HEADERS},
            )
        },
    }


def _control(verb: str, about: str) -> dict[str, Operation]:
    body = {"required": False, "content": _json(f"{verb.capitalize()}Request", {})}
    content = {"application/json": {"schema": {"type": "object"}, "example": {}}}
    errors = (*_WITH_BODY, "403", "404")
    return {
        "post": _operation(
            f"{verb}Model", about, content, errors, parameters=(_MODEL, inference.CONTENT_ENCODING), body=body
        )
    }


def _health(name: str, about: str, schema: str) -> dict[str, Operation]:
    operation = _operation(name, about, _json(schema, {schema.lower(): True}))
    operation["security"] = [{}]
    if schema == "Ready":
        operation["responses"]["503"] = {"description": "Not ready.", "content": _json("Ready", {"ready": False})}
    return {"get": operation}


_INDEX = [{"name": "lstm", "version": "2", "state": "READY", "reason": ""}]
_SERVER = {"name": "hangtag", "version": "2.1.0", "extensions": ["binary_tensor_data"]}
_NAMED = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "NAME or NAME@VERSION.",
    "schema": {"type": "string", "minLength": 1},
}
_MODELS = {
    "name": "models",
    "in": "path",
    "required": True,
    "description": "NAME or NAME@VERSION; several with commas.",
    "schema": {"type": "string", "minLength": 1},
}

PATHS: dict[str, dict[str, Operation]] = {
    "/v2": {"get": _operation("serverMetadata", "Describe the server.", _json("ServerMetadata", _SERVER))},
    "/v2/health/live": _health("live", "Say that the server runs.", "Live"),
    "/v2/health/ready": _health("ready", "Say whether the server takes requests.", "Ready"),
    "/v2/models/stats": {
        "get": _operation("statistics", "Count what all models did.", _json("Statistics", {"model_stats": []}))
    },
    **_of_model("/v2/models/{model}", "", _MODEL),
    **_of_model("/v2/models/{model}/versions/{version}", "OfVersion", _MODEL, _VERSION),
    "/v2/repository/index": {
        "post": _operation(
            "repositoryIndex",
            "List the models of the repository.",
            _json("Index", _INDEX),
            _WITH_BODY,
            parameters=(inference.CONTENT_ENCODING,),
            body={"required": False, "content": _json("IndexRequest", {"ready": True})},
        )
    },
    "/v2/repository/models/{model}/load": _control("load", "Load a model, also if it is loaded already."),
    "/v2/repository/models/{model}/unload": _control("unload", "Take a model out of service."),
    "/v1/classify": {
        "post": _classify(
            "compare",
            "Classify an image with the models of the parameter, or with all that classify images.",
            {"oneOf": [reference("Comparison"), reference("Classification")]},
            {"outcomes": [{"model_name": "lstm", "answer": classification.ANSWER}, classification.FAILURE]},
        )
    },
    "/v1/classify/{models}": {
        "post": _classify(
            "classify",
            "Classify an image with one model, or compare several on it.",
            {"oneOf": [reference("Classification"), reference("Comparison")]},
            classification.ANSWER,
            _MODELS,
        )
    },
    "/v1/examples/{model}": {
        "get": _operation(
            "examples",
            "Give the pictures to try a model with that its file has.",
            _json("Examples", {"examples": [{"label": "Coat", "png": "iVBORw0KGgo="}]}),
            _OF_MODEL,
            parameters=(_NAMED,),
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Return Prometheus' metrics, of all workers.",
            {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
            ("400",),
        )
    },
    "/openapi.json": {
        "get": _operation(
            "openapi",
            "Return this description.",
            {"application/json": {"schema": {"type": "object"}}},
        )
    },
}
