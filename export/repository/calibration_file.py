"""The calibration error of a model that was exported before the gate measured it: calibration.json beside model.onnx.

The model's file stays as it is, with every digest of it. ``hangtag models verify --record`` writes the figures after
all that the file itself records was found to hold; they count for the graph with the digest that they name alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hangtag.export.errors import ExportError

NAME = "calibration.json"


def read(model: Path, graph_digest: str) -> dict[str, Any]:
    """Return figures by the gate's check, for the graph with this digest; empty where there are none.

    Args:
        model: The version's model.onnx.
        graph_digest: As its metadata records it.
    """
    try:
        document = json.loads(model.with_name(NAME).read_text(encoding="utf-8"))
        gate = document["gate"] if document["graph_digest"] == graph_digest else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return gate if isinstance(gate, dict) else {}


def write(model: Path, graph_digest: str, gate: Mapping[str, Mapping[str, object]]) -> Path:
    """Write figures of a model, and return the file.

    Args:
        model: As for `read`.
        graph_digest: Likewise.
        gate: Figures by the gate's check.

    Raises:
        ExportError: The file cannot be written.
    """
    file = model.with_name(NAME)
    try:
        file.write_text(json.dumps({"graph_digest": graph_digest, "gate": gate}, indent=2) + "\n")
    except OSError as error:
        raise ExportError(f"{file} cannot be written: {error.strerror}") from error
    return file
