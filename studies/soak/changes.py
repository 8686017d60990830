"""Publishes new versions of models, and kills workers, during the load."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.model_repository import numbered_versions
from studies.soak.answers import MODELS
from studies.soak.servers import WORKERS, Server
from studies.stubs import InferenceStub

_SERVES_WITHIN = 30.0
"""The time limit in seconds for a new version to serve, and for the replacement of a killed worker."""
_PAUSE = 0.1


@dataclass(frozen=True)
class Kill:
    """A killed worker: the number of its server, and the time on the monotonic clock in seconds."""

    server: int
    at: float


class Changes:
    """Publishes versions and kills workers. `publish` and `kill` may run on different threads."""

    def __init__(self, models: Path, servers: Sequence[Server]) -> None:
        self._models = models
        self._servers = servers
        self.kills: list[Kill] = []
        self.seconds_to_serve: list[float] = []
        """The seconds from the publication of each version until all servers served only this version."""
        self.problems: list[str] = []
        """A message for each version that did not begin to serve, and for each worker that was not replaced."""

    def publish(self) -> None:
        """Publish a copy of the next model's newest version under a new number, and wait until only the copy serves.

        Then remove all older versions except the previous one, which an operator would keep for a rollback.
        """
        model = MODELS[len(self.seconds_to_serve) % len(MODELS)]
        last = max(file.version for file in numbered_versions(self._models / model))
        version, staged = str(last + 1), self._models.parent / "staged"
        shutil.copytree(self._models / model / str(last), staged)
        started = time.monotonic()
        staged.rename(self._models / model / version)
        for server in self._servers:
            if problem := _require_serving(server, model, version, started + _SERVES_WITHIN):
                self.problems.append(f"{server.name}: version {version} of {model} does not serve: {problem}")
        self.seconds_to_serve.append(time.monotonic() - started)
        for file in numbered_versions(self._models / model):
            if file.version < last:
                shutil.rmtree(file.path.parent)

    def kill(self) -> None:
        """Kill the youngest worker of the next server. The oldest keep running, so that leaks show in their memory."""
        number = len(self.kills) % len(self._servers)
        deadline = time.monotonic() + _SERVES_WITHIN
        while len(running := self._servers[number].workers()) < WORKERS:  # a killed worker is being replaced
            if time.monotonic() > deadline:
                self.problems.append(f"{self._servers[number].name} has only {len(running)} workers")
                return
            time.sleep(_PAUSE)
        self.kills.append(Kill(number, time.monotonic()))
        running[-1].kill()


def _require_serving(server: Server, model: str, version: str, deadline: float) -> str:
    """Load a version, unless the server polls, and wait until only this version serves. Return the problem, or an empty
    text.

    A call may fail because its worker is killed, but the next call reaches another worker.
    """
    problem, loaded = "", not server.explicit
    while time.monotonic() < deadline:
        with server.address.credentials.channel(server.address.grpc) as channel:
            stub = InferenceStub(channel)
            try:
                if not loaded:
                    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model), timeout=_SERVES_WITHIN)
                    loaded = True
                index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=_SERVES_WITHIN)
            except grpc.RpcError as error:
                problem = f"{error.code().name}: {error.details()}"
            else:
                serving = [entry.version for entry in index.models if entry.name == model]
                if serving == [version]:
                    return ""
                problem = f"versions {', '.join(serving) or 'none'} do"
        time.sleep(_PAUSE)
    return problem
