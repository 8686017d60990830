"""Checks that a model's file has passed the gate of 'hangtag export' and has not changed since.

The export writes the gate's results (``hangtag.gate``) and a digest of the graph and its weights
(``hangtag.graph_digest``) into the file's metadata. The digest is the SHA-256 of the serialized ModelProto without
``metadata_props``, which are top-level fields in protobuf's wire format. A server has no ONNX parser.

These metadata are not signed, so anybody who can write a file can also forge them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.signature import PREFIX

_METADATA_PROPS = 14  # the field number of ModelProto's metadata_props
_KEY, _VALUE = 1, 2  # the field numbers of StringStringEntryProto's key and value
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10  # in bytes, each of which holds 7 bits of the number


def proves_batching(file: Path) -> bool:
    """Whether the file has passed the check for batching, and has not changed since. The check computes each row
    alone and in a batch, and compares the two answers."""
    try:
        batching = _figures(file).get("batching")
    except (OSError, ValueError):
        return False
    # hangtag's own files must pass this check; for other files, the figures record whether it passed
    return isinstance(batching, dict) and batching.get("batched", True) is True


def require_proof(file: Path) -> None:
    """Raise ModelLoadError if a version's model.onnx cannot be read, has not passed the gate, or has changed since
    (--require-proof). ONNX Runtime has not read the file yet."""
    try:
        figures = _figures(file)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read as an ONNX file: {error}") from error
    if "structure" not in figures:  # the check that every published file passes, including third-party files
        raise ModelLoadError(
            f"{file} has not passed the gate, or its graph or weights have changed since, and --require-proof refuses "
            "such a file. Publish it with 'hangtag export', or with 'hangtag import' if it is not from hangtag"
        )


def _figures(file: Path) -> Mapping[str, Any]:
    """Return the gate's results by check; empty if they cannot be read, or the graph or the weights have changed since.
    Raises OSError if the file cannot be read, and ValueError if the file is not a message."""
    rest = hashlib.sha256()
    metadata: dict[str, str] = {}
    for number, field, content in _fields(memoryview(file.read_bytes())):
        if number == _METADATA_PROPS:
            entry = {number: bytes(content).decode() for number, _, content in _fields(content)}
            metadata[entry.get(_KEY, "")] = entry.get(_VALUE, "")
        else:
            rest.update(field)
    try:
        figures = json.loads(metadata.get(f"{PREFIX}gate", ""))
    except (ValueError, RecursionError):
        return {}
    is_unchanged = metadata.get(f"{PREFIX}graph_digest") == rest.hexdigest()
    return figures if is_unchanged and isinstance(figures, dict) else {}


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield each field's number, its bytes, and its content. Raises ValueError if the message is incomplete."""
    position = 0
    while position < len(message):
        tag, content = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            end = _varint(message, content)[1]
        elif kind == _BYTES:
            length, content = _varint(message, content)
            end = content + length
        elif kind in _FIXED_SIZES:
            end = content + _FIXED_SIZES[kind]
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if end > len(message):
            raise ValueError("the file ends in the middle of a field")
        yield tag >> 3, message[position:end], message[content:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that starts at this position, and the position after it."""
    value = 0
    for place, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    raise ValueError("the file ends in the middle of a number, or a number has more than 64 bits")
