"""Damaged files: each is read or refused in one line, and published completely or not at all.

The environment variable FUZZ_FILES sets how many go through the whole intake; far more are only read.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from hangtag.export.errors import ExportError
from hangtag.export.third_party import document
from hangtag.serving.client import Client
from tests.kit import onnx_models, unbatchable_models
from tests.kit.command import contents, invoke
from tests.kit.server import server

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_FILES", "32"))
BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    onnx_models.classifier, onnx_models.recurrent, onnx_models.text, onnx_models.two_inputs, onnx_models.free_axis,
    onnx_models.gather, unbatchable_models.scaled_by_the_largest, onnx_models.aborting,
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """A file with damaged fields for odd seeds, with damaged bytes for even ones."""
    model = BUILDERS[seed // 2 % len(BUILDERS)]()
    return mutate_fields(model, seed) if seed % 2 else mutate_bytes(model.SerializeToString(), seed)


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    refusals = []
    for seed in range(800):
        file.write_bytes(damaged(seed))
        try:
            document.read(file)
        except ExportError as error:
            refusals.append(str(error))
    assert 80 < len(refusals) < 720  # neither is a rarity
    assert not [message for message in refusals if "\n" in message]


@pytest.mark.parametrize("part", range(2))
def test_a_damaged_file_is_published_completely_or_not_at_all(part: int, tmp_path: Path) -> None:
    """By the command, which runs the file in a process of its own; a server loads what was published."""
    file, models = tmp_path / "theirs.onnx", tmp_path / "models"
    command = ["import", file, "--models", models, "--name"]
    published, refusals = [], []
    for seed in range(part * CASES // 2, (part + 1) * CASES // 2):
        file.write_bytes(damaged(seed))
        before = contents(tmp_path)
        result = invoke(*command, f"seed-{seed}", exit_code=None)
        if result.exit_code == 0:
            published.append(f"seed-{seed}")
        else:
            refusals.append(result.stderr)
            assert (result.exit_code, result.stdout, contents(tmp_path)) == (1, "", before)
    assert refusals
    assert not [message for message in refusals if "exit code" in message]  # no traceback of the child
    with server(models, provider="cpu", max_batch_size=1) as running, Client(running.address) as client:
        assert client.models() == sorted(published)


WORDS = ("", "x", "y", "../secret", "\0", "é" * 50, "Loop", "If", "LSTM", "Constant", "com.microsoft", "a" * 5000)
BYTES = (b"", b"\xff\xfe", bytes(7), b"Loop", bytes(range(40)))
INTEGERS = (-(2**63), -1, 0, 1, 2, 7, 16, 255, 2**31 - 1, 2**31, 2**62)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e30)
VALUES: dict[int, Sequence[object]] = {
    FieldDescriptor.TYPE_STRING: WORDS,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_FLOAT: FLOATS,
    FieldDescriptor.TYPE_DOUBLE: FLOATS,
    FieldDescriptor.TYPE_INT32: [max(-(2**31), min(2**31 - 1, value)) for value in INTEGERS],
    FieldDescriptor.TYPE_INT64: INTEGERS,
    FieldDescriptor.TYPE_UINT64: [abs(value) for value in INTEGERS],
}
"""What fields of a type can hold, and no reader expects."""


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
        there[chosen.randrange(len(there))] = chosen.choice(_values(field))
    elif many:
        there.append(chosen.choice(_values(field)))
    else:
        setattr(message, field.name, chosen.choice(_values(field)))


def _values(field: FieldDescriptor) -> Sequence[object]:
    return VALUES[field.type] if field.enum_type is None else [value.number for value in field.enum_type.values]
