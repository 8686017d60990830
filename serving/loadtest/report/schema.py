"""Derives the JSON Schema of results from the types in document.py. `make schema` writes docs/loadtest.schema.json."""

import functools
import inspect
import json
import re
import types
import typing
from typing import Any

from hangtag.serving.loadtest.report import document

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """The schema of `ResultsDocument` (JSON Schema, draft 2020-12). It allows additional fields."""
    definitions: dict[str, Any] = {}
    root = _schema(document.ResultsDocument, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": document.SCHEMA,
        "description": (document.__doc__ or "").strip(),
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if typing.is_typeddict(kind):
        return _reference(kind, definitions)
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    return {"type": _PLAIN[kind]} if kind in _PLAIN else {}


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # A placeholder, which ends the recursion of a type that refers to itself.
        hints = typing.get_type_hints(kind)
        definitions[name] = {
            "type": "object",
            "description": kind.__doc__,
            "properties": {field: _described(kind, field, _schema(hint, definitions)) for field, hint in hints.items()},
            "required": list(hints),
        }
    return {"$ref": f"#/$defs/{name}"}


def _described(kind: Any, field: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Add the description: the comment after or above the field in the type's source."""
    match = re.search(
        rf"(?:^    # (?P<above>.+)\n)?^    {field}: .+?(?:  # (?P<after>.+))?$", _source(kind), re.MULTILINE
    )
    text = match and (match["after"] or match["above"])
    return {"description": text, **schema} if text else schema


@functools.cache
def _source(kind: Any) -> str:
    return inspect.getsource(kind)


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))  # noqa: T201
