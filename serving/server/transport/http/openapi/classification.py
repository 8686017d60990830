"""Classification in the description: its parameters, which a form may have as fields, and its bodies."""

from typing import Any

from hangtag.serving.server.transport.http.openapi.inference import BINARY_SCHEMA, CONTENT_ENCODING

Schema = dict[str, Any]

ANSWER = {
    "model_name": "lstm",
    "model_version": "2",
    "labels": [{"label": "Coat", "index": 4, "probability": 0.96875, "distance": 0.0}],
    "timings": {"preprocess_ns": 310000, "queue_ns": 12000, "compute_ns": 340000, "batch_size": 1},
    "task": "TASK_SINGLE_LABEL",
}
FAILURE = {"model_name": "nobody", "error": "no model 'nobody' is served here; served: lstm", "status": 404}
_UINT32: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_FIELDS: dict[str, Schema] = {
    "model": {
        "type": "array",
        "items": {"type": "string"},
        "description": "More models, NAME or NAME@VERSION; several with commas, or the parameter several times.",
    },
    "top_k": {**_UINT32, "description": "The most labels; 0: three of a ranking, all of a set."},
    "timeout": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1, "description": "In microseconds."},
    "height": {**_UINT32, "description": "With width: the image is raw 8-bit pixels, row by row."},
    "width": {**_UINT32, "description": "With height."},
}
_IMAGE = {"schema": BINARY_SCHEMA}
REQUEST = {
    "required": True,
    "content": {
        **{f"image/{kind}": _IMAGE for kind in ("png", "jpeg", "webp")},
        "application/octet-stream": _IMAGE,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {**BINARY_SCHEMA, "description": "The file. Its field may have another name."},
                    **_FIELDS,
                },
            },
            "encoding": {name: {"contentType": "text/plain"} for name in _FIELDS},
        },
    },
}
PARAMETERS = (
    *(
        {
            "name": name,
            "in": "query",
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in _FIELDS.items()
    ),
    CONTENT_ENCODING,
)
