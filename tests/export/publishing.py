"""Shared by the tests of publishing: publish some content, list what a server would serve, start another publisher."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hangtag.export.repository.publishing import publish
from hangtag.serving.model_repository import serving_versions

PUBLISHER = "tests.export.publisher"


def publish_content(models: Path, name: str, content: str | bytes) -> Path:
    """Publish a file with this content as the next version; return the version's folder."""
    with publish(models, name) as publication:
        publication.model_file.write_bytes(content.encode() if isinstance(content, str) else content)
    return publication.folder


def latest_served(models: Path) -> dict[str, int]:
    """The version of each model that a server would serve."""
    return {file.name: file.version for file in serving_versions(models)}


@contextmanager
def publisher(models: Path, name: str, source: Path, stop: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that publishes a file, once it waits at this stop."""
    command = [sys.executable, "-m", PUBLISHER, str(models), name, str(source), stop]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{stop}\n"
            yield process
        finally:
            process.kill()
