"""What a server is doing, as plain values that can be sent from process to process and added up."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hangtag.serving.server.telemetry.histogram import BucketHistogram
from hangtag.serving.server.telemetry.model_statistics import Counters, FailureKey

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
"""States of a version, as RepositoryIndex tells them."""


@dataclass(frozen=True)
class VersionState:
    """One version of a model: what it is, and what it did. reason: why it is not ready."""

    name: str
    version: str
    state: str
    reason: str = ""
    provider: str = ""
    instances: int = 0
    queued: int = 0
    max_queue_size: int = 0
    counters: Counters = field(default_factory=Counters)
    provider_asked: str = ""
    cuda_graphs: bool = False

    def __add__(self, other: "VersionState") -> "VersionState":
        """Of the same version in two processes: the worse state, the sum of what was done."""
        worse = self if self.state != READY else other
        return replace(
            worse,
            provider_asked=self.provider_asked or other.provider_asked,
            provider=self.provider or other.provider,
            cuda_graphs=self.cuda_graphs or other.cuda_graphs,
            instances=self.instances + other.instances,
            queued=self.queued + other.queued,
            max_queue_size=self.max_queue_size + other.max_queue_size,
            counters=self.counters + other.counters,
        )


@dataclass(frozen=True)
class ServerState:
    """All versions, what failed, and how often (re)loading a model ended how: (model, "ok" or "error") -> times.

    paths: how many processes serve ModelInfer on which path: ("hot" or "ordinary", why not hot) -> processes.
    """

    versions: tuple[VersionState, ...] = ()
    failures: dict[FailureKey, BucketHistogram] = field(default_factory=dict)
    loads: dict[tuple[str, str], int] = field(default_factory=dict)
    paths: dict[tuple[str, str], int] = field(default_factory=dict)

    def __add__(self, other: "ServerState") -> "ServerState":
        versions = {(one.name, one.version): one for one in self.versions}
        for one in other.versions:
            key = (one.name, one.version)
            versions[key] = versions[key] + one if key in versions else one
        failures = dict(self.failures)
        for failure, histogram in other.failures.items():
            failures[failure] = failures[failure] + histogram if failure in failures else histogram
        loads, paths = (_summed(*both) for both in ((self.loads, other.loads), (self.paths, other.paths)))
        return ServerState(tuple(versions.values()), failures, loads, paths)

    def counts_only(self) -> "ServerState":
        """What is left of a process that ended: the counts, which must not fall; nothing that waits or serves."""
        kept = (replace(one, instances=0, queued=0, max_queue_size=0, state=READY, reason="") for one in self.versions)
        return replace(self, versions=tuple(kept), paths={})


def _summed(one: dict[tuple[str, str], int], other: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def total(states: Iterable[ServerState]) -> ServerState:
    """All processes together."""
    return sum(states, ServerState())
