"""The schemas of what is sent and answered, and the responses that say what went wrong."""

from typing import Any

from hangtag.protos.tensors import DTYPES

Schema = dict[str, Any]


def reference(name: str) -> Schema:
    """Return a reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_DATATYPE: Schema = {"enum": [*DTYPES]}
_SHAPE = _array(_COUNT, maxItems=32)
_BINARY_SIZE: Schema = {**_COUNT, "description": "The tensor is this many bytes after the JSON, in the tensors' order."}
_DURATION = _object("count ns", count=_COUNT, ns=_COUNT)
_MANY_DURATIONS = dict.fromkeys(("success", "fail", "queue", "compute_input", "compute_infer"), _DURATION)

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        "error", error={"type": "string", "description": "What was wrong, what was expected, what to do."}
    ),
    "Live": _object("live", live=_FLAG),
    "Ready": _object("ready", ready=_FLAG),
    "ModelReady": _object("name ready", name=_TEXT, ready=_FLAG),
    "ServerMetadata": _object("name version extensions", name=_TEXT, version=_TEXT, extensions=_array(_TEXT)),
    "TensorMetadata": _object(
        "name datatype shape",
        name=_TEXT,
        datatype=_DATATYPE,
        shape=_array({"type": "integer", "minimum": -1, "description": "-1: any size."}),
    ),
    "ModelMetadata": _object(
        "name versions platform inputs outputs",
        name=_TEXT,
        versions=_array({"type": "string", "description": "The first one serves requests that name none."}),
        platform=_TEXT,
        inputs=_array(reference("TensorMetadata")),
        outputs=_array(reference("TensorMetadata")),
    ),
    "ModelConfig": {
        **_object("name max_batch_size input output", name=_TEXT, max_batch_size=_COUNT),
        "description": "The fields of Triton's model configuration that mean something here.",
    },
    "Examples": _object(
        "examples",
        examples=_array(_object("label png", label=_TEXT, png={**_TEXT, "contentEncoding": "base64"})),
    ),
    "Statistics": _object("model_stats", model_stats=_array(reference("ModelStatistics"))),
    "ModelStatistics": _object(
        "name version inference_count execution_count inference_stats",
        name=_TEXT,
        version=_TEXT,
        last_inference={**_COUNT, "description": "Milliseconds since 1970."},
        inference_count={**_COUNT, "description": "Samples computed."},
        execution_count={**_COUNT, "description": "Batches computed."},
        inference_stats=_object("success fail", **_MANY_DURATIONS, compute_output=_DURATION),
        batch_stats=_array({"type": "object"}),
    ),
    "IndexRequest": _object("", ready={**_FLAG, "description": "List only versions that serve."}),
    "Index": _array(
        _object(
            "name version state reason",
            name=_TEXT,
            version=_TEXT,
            state={"enum": ["READY", "LOADING", "UNAVAILABLE"]},
            reason=_TEXT,
        )
    ),
    "LoadRequest": _object("", parameters={"type": "object", "maxProperties": 0}),
    "UnloadRequest": _object("", parameters={"type": "object"}),
    "InputTensor": {
        **_object(
            "name datatype shape",
            name=_TEXT,
            datatype=_DATATYPE,
            shape=_SHAPE,
            data={
                "type": "array",
                "description": "Row-major, flat or nested as the shape says. Text for BYTES; FP16 only as binary.",
            },
            parameters={"type": "object", "properties": {"binary_data_size": _BINARY_SIZE}},
        ),
        "description": "Has either data or the parameter binary_data_size.",
    },
    "RequestedOutput": _object(
        "name",
        name=_TEXT,
        parameters={
            "type": "object",
            "properties": {"binary_data": {**_FLAG, "description": "Return it as bytes after the JSON."}},
        },
    ),
    "InferRequest": _object(
        "inputs",
        id={"type": "string", "description": "Returned with the answer."},
        inputs=_array(reference("InputTensor"), minItems=1),
        outputs=_array(reference("RequestedOutput"), description="None: all of the model's."),
        parameters={
            "type": "object",
            "properties": {
                "binary_data_output": {**_FLAG, "description": "binary_data of each output that does not set it."},
                "timeout": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 2**63 - 1,
                    "description": "In microseconds: a request that cannot be computed in time gets 504.",
                },
            },
        },
    ),
    "OutputTensor": _object(
        "name datatype shape",
        name=_TEXT,
        datatype=_DATATYPE,
        shape=_SHAPE,
        data={"type": "array", "description": "Row-major and flat."},
        parameters={"type": "object", "properties": {"binary_data_size": _BINARY_SIZE}},
    ),
    "InferResponse": _object(
        "model_name model_version outputs",
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        outputs=_array(reference("OutputTensor")),
    ),
    "LabelScore": _object(
        "label index probability",
        label=_TEXT,
        index={**_COUNT, "description": "The label's index in the model's outputs."},
        probability={"type": "number", "minimum": 0, "maximum": 1.001},
        distance={"type": "number", "description": "From the first label: 0 is the same, 1 as far as any two are."},
    ),
    "Classification": _object(
        "model_name model_version labels task timings",
        model_name=_TEXT,
        model_version=_TEXT,
        labels=_array(reference("LabelScore")),
        task={"enum": ["TASK_SINGLE_LABEL", "TASK_MULTI_LABEL"]},
        path_probability={"type": "number", "description": "Of exactly this set of labels."},
        timings=_object(
            "preprocess_ns queue_ns compute_ns batch_size",
            preprocess_ns=_COUNT,
            queue_ns=_COUNT,
            compute_ns=_COUNT,
            batch_size=_COUNT,
            stages={
                **_array(
                    _object(
                        "model queue_ns compute_ns batch_size",
                        model=_TEXT,
                        queue_ns=_COUNT,
                        compute_ns=_COUNT,
                        batch_size=_COUNT,
                    )
                ),
                "description": "Of a route: the members that computed; the answer is the last one's.",
            },
        ),
        unsure={"type": "boolean", "description": "Of a cascade: true where the next member had no time or no place."},
    ),
    "Comparison": _object(
        "outcomes",
        outcomes=_array(
            {
                "oneOf": [
                    _object("model_name answer", model_name=_TEXT, answer=reference("Classification")),
                    _object("model_name error status", model_name=_TEXT, error=_TEXT, status=_WHOLE),
                ]
            }
        ),
    ),
}


def _error(about: str, example: str, **headers: str) -> dict[str, Any]:
    content = {"application/json": {"schema": reference("Error"), "example": {"error": example}}}
    described = {name.replace("_", "-"): {"description": text, "schema": _TEXT} for name, text in headers.items()}
    return {"description": about, "content": content, **({"headers": described} if described else {})}


_RETRY = {"Retry_After": "Seconds after which to try again."}
ERRORS: dict[str, dict[str, Any]] = {
    "400": _error("The request does not fit.", "unknown input 'picture'; the model takes image: UINT8 [any, 28, 28]"),
    "401": _error(
        "The request has no valid token.",
        "the token is not valid here; its operator can give you one",
        WWW_Authenticate="Bearer",
    ),
    "403": _error(
        "A page of another site asks for a change.",
        "a page of https://example.com may not load and unload models here; only pages of this server may",
    ),
    "404": _error("No such model or version is served.", "no model 'nobody' is served here; served: cnn, lstm"),
    "405": _error(
        "The path does not take this method.",
        "this path takes POST; GET /openapi.json describes it",
        Allow="The methods that it takes.",
    ),
    "408": _error("The request comes too slowly; the connection is closed.", "the request comes too slowly"),
    "413": _error(
        "The body, or the answer, is larger than --max-message-mib.",
        "SERVER: Received message larger than max (20000000 vs. 16777216)",
    ),
    "415": _error(
        "The Content-Encoding is neither gzip nor deflate.",
        "the Content-Encoding 'br' is not supported; send gzip, deflate, or none",
    ),
    "429": _error(
        "The queue is full, or the memory for the bodies of requests; nothing was computed.",
        "the queue of lstm is full",
        **_RETRY,
    ),
    "431": _error(
        "The request's head is too large.", "the request's head is too large; at most 32,768 bytes are taken"
    ),
    "500": _error("A fault of the server's.", "an error inside the server; its log has it under 5e884898da28"),
    "503": _error(
        "The server loads its models, or stops.",
        "the server is stopping and takes no new requests; try another replica",
        **_RETRY,
    ),
    "504": _error("The request's timeout passed, or would pass.", "the deadline passed before the answer was computed"),
}
