"""Converts results to JSON and JSON to results, using pydantic. A class declares each field once, with its
description."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import cache, cached_property
from typing import Annotated, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError, WithJsonSchema, computed_field
from pydantic.json_schema import GenerateJsonSchema

T = TypeVar("T")
Combine = Callable[[Sequence[Any]], Any]
# A number that may be NaN. The document has null for NaN.
NullForNan = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


def stored(text: str = "", *, name: str | None = None, combine: Combine | None = None, **options: Any) -> Any:
    """Declare a dataclass field that is part of the document. `text` is the field's description in the schema, and
    `name` gives it another name in the document. `combine` combines the values of several objects into one value."""
    return field(metadata={"description": text or None, "serialization_alias": name, "combine": combine}, **options)


def unstored(*, combine: Combine | None = None, **options: Any) -> Any:
    """Declare a dataclass field that is not part of the document."""
    return field(metadata={"exclude": True, "combine": combine}, **options)


def shown(name: str | None = None) -> Callable[[Callable[[Any], T]], T]:
    """Declare a property that is computed once and written to the document, but never read from it. The property's
    docstring is its description in the schema. `name` gives it another name in the document."""

    def decorate(method: Callable[[Any], T]) -> T:
        return cast(T, computed_field(alias=name)(cached_property(method)))

    return decorate


def combined(kind: type[T], parts: Sequence[T], **values: Any) -> T:
    """Combine several objects with the `combine` functions of their fields. `values` sets the other fields."""
    for each in fields(cast(Any, kind)):
        combine = each.metadata.get("combine")
        if combine is not None and each.name not in values:
            values[each.name] = combine([getattr(part, each.name) for part in parts])
    return kind(**values)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(kind: Any, value: Any) -> str:
    """Serialise a value of this type as a JSON document. An unknown number is null."""
    return _adapter(kind).dump_json(value, indent=1, by_alias=True).decode()


def from_json(kind: type[T], document: Mapping[str, Any]) -> T:
    """Read an object from its document. Fields that the document lacks get their defaults. Raises ValueError if the
    document is not a document of this kind."""
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_python(document))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class _Generator(GenerateJsonSchema):
    """Omits titles, which would repeat names, and marks every field as required, even if the field has a default."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True

    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])


def json_schema(kind: type, title: str, description: str) -> dict[str, Any]:
    """Return the schema of a dataclass' document (JSON Schema, draft 2020-12), which allows additional fields."""
    schema = _adapter(kind).json_schema(mode="serialization", schema_generator=_Generator)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, **schema, "title": title, "description": description}
