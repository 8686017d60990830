"""The protocol's messages as JSON, with the field names of the .proto files.

protobuf's own json_format writes 64-bit numbers as texts, which clients of the Open Inference Protocol do not read.
"""

from typing import Any

from google.protobuf.message import Message


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message as JSON's values. Enumerations are their names; fields without a value have their default, but
    for messages and optional fields, which are left out."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of_value = kind.fields_by_name["value"]
        return {str(key): _single(of_value, value[key]) for key in value}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return to_dict(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value
