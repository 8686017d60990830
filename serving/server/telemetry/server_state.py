"""The state and the counters of a server, as plain values that processes send to each other and add up."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hangtag.serving.server.telemetry.failure_counts import FailureKey
from hangtag.serving.server.telemetry.histogram import BucketHistogram
from hangtag.serving.server.telemetry.model_statistics import Counters
from hangtag.serving.server.telemetry.route_statistics import RouteCounts

Key = TypeVar("Key")

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
"""States of a version, in the words of RepositoryIndex."""


@dataclass(frozen=True)
class VersionState:
    """One version of a model: whether it serves (``reason``: why not), how, and its counters."""

    name: str
    version: str
    state: str
    reason: str = ""
    provider: str = ""
    instances: int = 0
    queued: int = 0
    max_queue_size: int = 0
    counters: Counters = field(default_factory=Counters)
    requested_provider: str = ""
    cuda_graphs: bool = False
    fell_back: bool = False
    io_binding_failures: int = 0
    route: RouteCounts = field(default_factory=RouteCounts)
    """Of a route: what its members answered."""

    def __add__(self, other: "VersionState") -> "VersionState":
        """Combine one version in two processes: the worse state, the sum of the counters."""
        worse = self if self.state != READY else other
        return replace(
            worse,
            requested_provider=self.requested_provider or other.requested_provider,
            provider=self.provider or other.provider,
            cuda_graphs=self.cuda_graphs or other.cuda_graphs,
            fell_back=self.fell_back or other.fell_back,
            instances=self.instances + other.instances,
            queued=self.queued + other.queued,
            max_queue_size=self.max_queue_size + other.max_queue_size,
            counters=self.counters + other.counters,
            io_binding_failures=self.io_binding_failures + other.io_binding_failures,
            route=self.route.plus(other.route),
        )


@dataclass(frozen=True)
class Workers:
    """Number of worker processes that should run and that do, and how often one was replaced."""

    configured: int = 1
    running: int = 1
    restarts: int = 0


@dataclass(frozen=True)
class ServerState:
    """The state of one process, or of several together.

    Attributes:
        versions: Every version that serves, is being loaded, or failed to load.
        failures: Requests that ended with an error.
        loads: Number of loads by model and outcome ("ok" or "error").
        transports: Number of processes by their transport ("native" or "grpc") and the reason for it.
        workers: Set by the supervisor, where there is one; sums leave it out.
        shed: Requests that were refused because as many wait as may, by model; empty: before they were read.
    """

    versions: tuple[VersionState, ...] = ()
    failures: dict[FailureKey, BucketHistogram] = field(default_factory=dict)
    loads: dict[tuple[str, str], int] = field(default_factory=dict)
    transports: dict[tuple[str, str], int] = field(default_factory=dict)
    workers: Workers = Workers()
    shed: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "ServerState") -> "ServerState":
        versions = {(version.name, version.version): version for version in self.versions}
        for version in other.versions:
            key = (version.name, version.version)
            versions[key] = versions[key] + version if key in versions else version
        failures = dict(self.failures)
        for failure, histogram in other.failures.items():
            failures[failure] = failures[failure] + histogram if failure in failures else histogram
        return ServerState(
            tuple(versions.values()),
            failures,
            _summed(self.loads, other.loads),
            _summed(self.transports, other.transports),
            shed=_summed(self.shed, other.shed),
        )

    def counts_only(self) -> "ServerState":
        """Return what must be kept of a process that ended: its counters, since Prometheus counters must not fall."""
        versions = tuple(
            replace(version, instances=0, queued=0, max_queue_size=0, state=READY, reason="")
            for version in self.versions
        )
        return replace(self, versions=versions, transports={})

    def restricted_to(self, served: Container[tuple[str, str]]) -> "ServerState":
        """Return this without the counts of other versions, which would only gather. served: names with versions."""
        versions = tuple(version for version in self.versions if (version.name, version.version) in served)
        failures = {key: counts for key, counts in self.failures.items() if not key[1] or key[:2] in served}
        return replace(self, versions=versions, failures=failures)


def _summed(one: dict[Key, int], other: dict[Key, int]) -> dict[Key, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def total(states: Iterable[ServerState]) -> ServerState:
    """Combine the states of all processes."""
    return sum(states, ServerState())
