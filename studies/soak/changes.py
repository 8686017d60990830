"""What happens to the servers during the load: new versions of their models, and killed workers."""

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.model_repository import numbered_versions
from studies.soak.answers import MODELS
from studies.soak.processes import workers
from studies.soak.servers import WORKERS, Server
from studies.soak.tally import Kill
from studies.stubs import InferenceStub

_SERVES_WITHIN = 30.0
"""Seconds after which a version that does not serve is a failure, and so is a worker that is not replaced."""
_PAUSE = 0.1


class Changes:
    """Publishes versions and kills workers. `publish` and `kill` may run on different threads."""

    def __init__(self, models: Path, servers: Sequence[Server]) -> None:
        self._models = models
        self._servers = servers
        self._versions = 0
        self.kills: list[Kill] = []
        self.seconds_to_serve: list[float] = []
        """For each version: from its publication to when no server had another one."""
        self.problems: list[str] = []
        """Versions that did not come to serve, and workers that were not replaced."""

    def publish(self) -> None:
        """Publish the newest version of the next model again under the next number, and wait until it alone serves.

        Then the versions before the last one are removed: one stays, as an operator keeps it to go back to.
        """
        model = MODELS[self._versions % len(MODELS)]
        self._versions += 1
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
        """Kill the youngest worker of the next server. The eldest ones live on, so that their memory shows a leak."""
        number = len(self.kills) % len(self._servers)
        deadline = time.monotonic() + _SERVES_WITHIN
        while len(running := workers(self._servers[number].process.pid)) < WORKERS:  # The last one is being replaced.
            if time.monotonic() > deadline:
                self.problems.append(f"{self._servers[number].name} has only {len(running)} workers")
                return
            time.sleep(_PAUSE)
        self.kills.append(Kill(number, time.monotonic()))
        os.kill(running[-1], signal.SIGKILL)


def _require_serving(server: Server, model: str, version: str, deadline: float) -> str:
    """Load a version where the server does not by itself, and wait until it alone serves; returns what went wrong.

    A worker that is killed meanwhile may fail one call; the next one finds the others.
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
