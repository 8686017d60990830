"""docker-compose.yml brought up for real, through the docker command, as a person would."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FILES = ("-f", "docker-compose.yml", "-f", "deploy/test/compose.yml")
UP_SECONDS = 120
PROFILES = ("gpu", "loadtest", "monitoring", "scale", "tls")


def docker(*arguments: str, env: Mapping[str, str] | None = None, exit_codes: tuple[int, ...] = (0,)) -> str:
    """What ``docker ARGUMENTS`` says on standard output; AssertionError with all of it when it ends otherwise."""
    ended = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = f"docker {' '.join(arguments)}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode in exit_codes, said
    return ended.stdout


class Stack:
    """One compose project: the services that ``profiles`` add, with ``env`` for the file's variables."""

    def __init__(self, project: str, profiles: tuple[str, ...], env: Mapping[str, str] | None = None) -> None:
        self.project = project
        self._env = {"COMPOSE_PROFILES": ",".join(profiles), **(env or {})}

    def compose(self, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str:
        fixed = ("compose", "--project-directory", ".", "--ansi", "never", "--progress", "quiet", "-p", self.project)
        return docker(*fixed, *FILES, *arguments, env=self._env, exit_codes=exit_codes)

    def up(self, *services: str, replicas: int = 1) -> None:
        """Start them and what they depend on; returns when all are healthy."""
        scale = ("--scale", f"server={replicas}") if replicas != 1 else ()
        wait = ("--detach", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS))
        try:
            self.compose("up", *wait, *scale, *services)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '50')}") from error

    def address(self, service: str, port: int, index: int = 1) -> str:
        """Where this machine reaches a container's port."""
        return self.compose("port", "--index", str(index), service, str(port)).strip()

    def container(self, service: str, index: int = 1) -> dict[str, Any]:
        """docker inspect of a service's container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", f"{self.project}-{service}-{index}"))
        return found[0]

    def client(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """``hangtag ARGUMENTS`` in a container of its own beside the services."""
        return self.compose("run", "--rm", "--no-deps", "-T", *options, "loadtest", *arguments)

    def report(self, name: str) -> dict[str, Any]:
        """A load test's JSON file from the volume that it was written to."""
        volume = f"{self.project}_reports:/reports:ro"
        text = docker("run", "--rm", "--volume", volume, "--entrypoint", "cat", "hangtag:client", f"/reports/{name}")
        document: dict[str, Any] = json.loads(text)
        return document


@contextmanager
def stack(project: str, *profiles: str, env: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """A project that is gone afterwards, volumes included, whatever happens."""
    made = Stack(project, profiles, env)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
