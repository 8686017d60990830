"""The route that ships, and what its answers depend on: figures of its name with other settings are not its own."""

import tomllib
from pathlib import Path
from typing import Any

from hangtag.serving import model_repository

NAME = "fast-and-accurate"


def definition(repository: Path, name: str = NAME) -> dict[str, Any]:
    """What the route's answers depend on: its members with their versions, its rule, and what it does under overload.

    Raises:
        OSError: There is no such route.
        ModelRepositoryError: A member is missing.
    """
    settings = tomllib.loads((repository / name / model_repository.ROUTE_FILE).read_text())
    for about in ("description", "expected_sent_on"):
        settings.pop(about, None)
    versions = {}
    for member in settings["cascade"]:
        model, _, version = member.partition("@")
        versions[member] = int(version or model_repository.require_versions(repository, model)[0].version)
    return {"settings": settings, "versions": versions}
