"""Checks a manifest's fields against KServe's SDK, whose classes are generated from KServe's CRDs.

Parses the SDK's sources instead of importing them, since its dependencies conflict with hangtag's.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[2] / ".venv-peers"


@cache
def _models() -> Path:
    folders = list(PEERS.glob("lib/python3*/site-packages/kserve/models"))
    assert folders, f"KServe's SDK is not in {PEERS}: run 'make peers'"
    return folders[0]


@cache
def fields(model: str) -> dict[str, str]:
    """Returns a class's fields: JSON name -> type as the SDK writes it (str, list[V1Container], …)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model).lower()
    tree = ast.parse((_models() / f"{snake}.py").read_text())
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    return {tables["attribute_map"][name]: kind for name, kind in tables["openapi_types"].items()}


def problems(value: Any, kind: str, where: str = "") -> list[str]:
    """Returns one line for each field that the SDK does not have or whose type differs.

    Kubernetes' own types (V1Container) are not checked here; Kubernetes' schemas cover them.

    Args:
        value: the part of the manifest to check.
        kind: its type in the SDK.
        where: its path in the manifest, for the messages.
    """
    if items := re.fullmatch(r"list\[(\w+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is not a list"]
        return [line for i, item in enumerate(value) for line in problems(item, items[1], f"{where}[{i}]")]
    if kind in ("str", "int", "bool", "float"):
        return [] if type(value).__name__ == kind else [f"{where}: {value!r} is not of type {kind}"]
    if not re.match(r"V1(alpha|beta)1", kind):
        return []
    known = fields(kind)
    unknown = [f"{where}.{name}: {kind} has no such field" for name in value if name not in known]
    return unknown + [
        line for name in value if name in known for line in problems(value[name], known[name], f"{where}.{name}")
    ]
