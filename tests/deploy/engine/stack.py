"""Starts the services of docker-compose.yml with the command docker."""

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
    """Runs ``docker ARGUMENTS`` and returns its standard output.

    Raises:
        AssertionError: The exit code is not among exit_codes. The message contains everything that docker printed.
    """
    process = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    message = f"docker {' '.join(arguments)}: exit code {process.returncode}\n{process.stdout}\n{process.stderr}"
    assert process.returncode in exit_codes, message
    return process.stdout


class Stack:
    """One compose project with the default services and those of ``profiles``; ``env`` sets the file's variables."""

    def __init__(self, project: str, profiles: tuple[str, ...], env: Mapping[str, str] | None = None) -> None:
        self.project = project
        self._env = {"COMPOSE_PROFILES": ",".join(profiles), **(env or {})}

    def compose(self, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str:
        fixed = ("compose", "--project-directory", ".", "--ansi", "never", "--progress", "quiet", "-p", self.project)
        return docker(*fixed, *FILES, *arguments, env=self._env, exit_codes=exit_codes)

    def up(self, *services: str, replicas: int = 1) -> None:
        """Starts services with their dependencies, and returns when all are healthy."""
        scale = ("--scale", f"server={replicas}") if replicas != 1 else ()
        wait = ("--detach", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS))
        try:
            self.compose("up", *wait, *scale, *services)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '50')}") from error

    def address(self, service: str, port: int, index: int = 1) -> str:
        """Returns the address on this machine, HOST:PORT, at which the engine publishes a container's port."""
        return self.compose("port", "--index", str(index), service, str(port)).strip()

    def container(self, service: str, index: int = 1) -> dict[str, Any]:
        """Returns docker inspect's description of a service's container."""
        containers: list[dict[str, Any]] = json.loads(docker("inspect", f"{self.project}-{service}-{index}"))
        return containers[0]

    def client(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Runs ``hangtag ARGUMENTS`` in a new container on the services' network, and returns the command's output."""
        return self.compose("run", "--rm", "--no-deps", "-T", *options, "loadtest", *arguments)

    def report(self, name: str) -> dict[str, Any]:
        """Reads a JSON report of a load test from the volume that holds the reports."""
        volume = f"{self.project}_reports:/reports:ro"
        text = docker("run", "--rm", "--volume", volume, "--entrypoint", "cat", "hangtag:client", f"/reports/{name}")
        document: dict[str, Any] = json.loads(text)
        return document


@contextmanager
def stack(project: str, *profiles: str, env: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Yields a compose project, and removes it with its volumes at the end of the test."""
    project_stack = Stack(project, profiles, env)
    try:
        yield project_stack
    finally:
        project_stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
