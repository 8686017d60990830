"""A damaged file is either read, or refused with a one-line message; it is published completely or not at all.

The environment variable FUZZ_FILES sets the number of files that the command imports.
"""

import copy
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import json_format

from hangtag.export.errors import ExportError
from hangtag.export.third_party import onnx_document
from hangtag.serving.client import Client
from tests.kit import onnx_models, unbatchable_models
from tests.kit.command import contents, invoke
from tests.kit.server import server

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FUZZ_FILES", "32"))
BUILDERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    onnx_models.classifier, onnx_models.recurrent, onnx_models.text, onnx_models.two_inputs, onnx_models.free_axis,
    onnx_models.gather, unbatchable_models.scaled_by_the_largest, unbatchable_models.aborting,
)  # fmt: skip


def damaged(seed: int) -> bytes:
    """A file with damaged fields if the seed is odd, and with damaged bytes if the seed is even."""
    model = BUILDERS[seed // 2 % len(BUILDERS)]()
    return mutate_fields(model, seed) if seed % 2 else mutate_bytes(model.SerializeToString(), seed)


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    refusals = []
    for seed in range(800):
        file.write_bytes(damaged(seed))
        try:
            onnx_document.read(file)
        except ExportError as error:
            refusals.append(str(error))
    assert 80 < len(refusals) < 720  # many files are refused, and many are read
    assert not [message for message in refusals if "\n" in message]


@pytest.mark.parametrize("part", range(2))
def test_a_damaged_file_is_published_completely_or_not_at_all(part: int, tmp_path: Path) -> None:
    """A server must load every file that the command published."""
    file, models = tmp_path / "theirs.onnx", tmp_path / "models"
    command = ["import", file, "--models", models, "--name"]
    onnx_models.publish(models, "whole", onnx_models.gather())
    published, refusals = ["whole"], []
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
    assert not [message for message in refusals if "exit code" in message]  # the child process did not crash
    with server(models, provider="cpu", max_batch_size=1) as running, Client(running.address) as client:
        assert client.models() == sorted(published)


VALUES = (
    "", "x", "../secret", "\0", "é" * 50, "Loop", "If", "LSTM", "Constant", "com.microsoft", "a" * 5000, "TG9vcA==",
    -(2**63), -1, 0, 1, 2, 7, 16, 255, 2**31 - 1, 2**31, 2**62, -1.5, "NaN", "Infinity", 1e30,
)  # fmt: skip
"""Unexpected values for fields."""


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
    """Delete, double, replace or copy a field. The parser accepts the result, because it is valid protobuf."""
    chosen = random.Random(seed)
    while True:
        document = json_format.MessageToDict(model)
        _change(document, chosen)
        with suppress(json_format.ParseError):  # the field does not accept this type
            return json_format.ParseDict(document, onnx.ModelProto(), ignore_unknown_fields=True).SerializeToString()


def _change(document: Any, chosen: random.Random) -> None:
    places = [*_places(document)]
    holder, key = chosen.choice(places)
    match chosen.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case 2 | 3:
            source, name = chosen.choice(places)
            holder[key if isinstance(holder, list) else name] = copy.deepcopy(source[name])
        case _:
            holder[key] = chosen.choice(VALUES)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the place of each field and list entry in a document: the dict or list that contains it, and its key."""
    for key, value in list(document.items() if isinstance(document, dict) else enumerate(document)):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)
