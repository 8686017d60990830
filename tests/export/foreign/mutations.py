"""Damage a model file, by a seed: its bytes, as a bad disk does, or its fields, as an attacker does."""

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

WORDS = ("", "x", "y", "../secret", "\0", "é" * 50, "Loop", "If", "LSTM", "Constant", "com.microsoft", "a" * 5000)
BYTES = (b"", b"\xff\xfe", bytes(7), b"Loop", bytes(range(40)))
INTEGERS = (-(2**63), -1, 0, 1, 2, 7, 16, 255, 2**31 - 1, 2**31, 2**62)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e30)


def mutate_bytes(content: bytes, seed: int) -> bytes:
    """Change, delete or insert some bytes, or cut off the end."""
    chosen = random.Random(seed)
    changed = bytearray(content)
    for _ in range(chosen.randint(1, 8)):
        at = chosen.randrange(len(changed))
        match chosen.randrange(4):
            case 0:
                changed[at] ^= 1 << chosen.randrange(8)
            case 1:
                changed[at] = chosen.randrange(256)
            case 2:
                del changed[at : at + chosen.randint(1, 20)]
            case _:
                changed[at:at] = chosen.randbytes(chosen.randint(1, 20))
    return bytes(changed[: chosen.randrange(1, len(changed))] if chosen.random() < 0.1 else changed)


def mutate_fields(model: onnx.ModelProto, seed: int) -> bytes:
    """Clear, double, remove or change one to three fields. The result is valid protobuf, so it gets past the parser."""
    chosen = random.Random(seed)
    for _ in range(chosen.randint(1, 3)):
        _change(chosen.choice([*_messages(model)]), chosen)
    return model.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)


def _change(message: Message, chosen: random.Random) -> None:
    field = chosen.choice([*message.DESCRIPTOR.fields])
    if chosen.random() < 0.25:
        message.ClearField(field.name)
        return
    there: Any = getattr(message, field.name)
    many = hasattr(there, "extend")  # a repeated field
    if field.type == FieldDescriptor.TYPE_MESSAGE and not many:
        there.SetInParent()
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        place = chosen.randrange(len(there)) if len(there) else None
        if place is not None and chosen.random() < 0.3:
            del there[place]
        elif place is not None and chosen.random() < 0.5:
            there.add().CopyFrom(there[place])
        else:
            there.add()
    elif many and len(there) and chosen.random() < 0.7:
        there[chosen.randrange(len(there))] = _value(field, chosen)
    elif many:
        there.append(_value(field, chosen))
    else:
        setattr(message, field.name, _value(field, chosen))


def _value(field: FieldDescriptor, chosen: random.Random) -> object:
    """A value that the field can hold, and that no reader expects."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return chosen.choice(WORDS if field.type == FieldDescriptor.TYPE_STRING else BYTES)
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return chosen.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return chosen.choice([*field.enum_type.values]).number
        case FieldDescriptor.CPPTYPE_INT32:
            return max(-(2**31), min(2**31 - 1, chosen.choice(INTEGERS)))
        case FieldDescriptor.CPPTYPE_UINT64:
            return abs(chosen.choice(INTEGERS))
        case _:
            return chosen.choice(INTEGERS)
