"""Checks a document against KServe's own SDK, whose classes are generated from its CRDs.

The SDK's sources are read and not imported: it wants versions of libraries that it could not share with hangtag.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[2] / ".venv-peers"


@cache
def _models() -> Path:
    found = list(PEERS.glob("lib/python3*/site-packages/kserve/models"))
    assert found, f"KServe's SDK is not in {PEERS}: run 'make peers'"
    return found[0]


@cache
def fields(model: str) -> dict[str, str]:
    """A class's fields by their names in JSON, with their types as the SDK writes them: str, list[V1Container], …"""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model).lower()
    tree = ast.parse((_models() / f"{snake}.py").read_text())
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    return {tables["attribute_map"][name]: kind for name, kind in tables["openapi_types"].items()}


def problems(value: Any, kind: str, where: str = "") -> list[str]:
    """What does not fit, a line each. Kubernetes' own types (V1Container) are left to Kubernetes' schemas."""
    if items := re.fullmatch(r"list\[(\w+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [line for i, item in enumerate(value) for line in problems(item, items[1], f"{where}[{i}]")]
    if kind in ("str", "int", "bool", "float"):
        return [] if type(value).__name__ == kind else [f"{where}: {value!r} is no {kind}"]
    if not re.match(r"V1(alpha|beta)1", kind):
        return []
    known = fields(kind)
    unknown = [f"{where}.{name}: {kind} has no such field" for name in value if name not in known]
    return unknown + [
        line for name in value if name in known for line in problems(value[name], known[name], f"{where}.{name}")
    ]
