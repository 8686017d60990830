"""The state and the counters of a server, as plain values that processes send to each other and add up. This module
also counts failed requests, and for each route the members' answers and the comparisons with the shadow."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hangtag.serving.server.telemetry.model_statistics import (
    SECONDS_BOUNDS,
    BucketHistogram,
    Counters,
    Mergeable,
    first,
    merge,
)

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
"""States of a version, in the words of RepositoryIndex."""
FailureKey = tuple[str, str, str]
"""Model, version and status code. Model and version are empty if the client named no model that is served."""
StageKey = tuple[int, str]
"""The number of the stage, from 1, and the stage's member, NAME or NAME@VERSION."""


@dataclass(frozen=True)
class StageCounts(Mergeable):
    requests: int = 0
    samples: int = 0


@dataclass(frozen=True)
class ShadowCounts(Mergeable):
    """How many copies of requests a route's shadow got, and how its answers compare with those that callers got."""

    compared: int = 0
    skipped: int = 0
    """Copies that were dropped or refused because the server had other work."""
    failed: int = 0
    samples: int = 0
    """Samples of the compared requests."""
    agreed: int = 0
    """Samples whose most probable label is the same in the shadow's answer and in the caller's answer."""
    largest_difference: float = field(default=0.0, metadata={"merge": max})
    """The largest difference between two values of an output."""


@dataclass(frozen=True)
class RouteCounts(Mergeable):
    """The counters of a route at one moment; empty for a model."""

    stages: Mapping[StageKey, StageCounts] = field(default_factory=dict)
    shadow: ShadowCounts | None = None
    low_confidence: int | None = None
    """Samples that kept a member's unsure answer, because the next member had no time for them or no room in its queue;
    None if the route is not a cascade."""
    expected_escalation_rate: float | None = field(default=None, metadata={"merge": first})
    """See `RouteSettings.expected_escalation_rate`."""


def _worse(one: str, other: str) -> str:
    return max(one, other, key=(READY, LOADING, UNAVAILABLE).index)


@dataclass(frozen=True)
class VersionState(Mergeable):
    """One version of a model: its state (with the ``reason`` if it does not serve), how it serves, and its counters."""

    name: str
    version: str
    state: str = field(metadata={"merge": _worse})
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


@dataclass(frozen=True)
class Workers:
    configured: int = 1
    running: int = 1
    restarts: int = 0


@dataclass
class StoreState:
    """The local copy of a model store: time of the last success (0: none), number of failed updates, last problem."""

    last_success: float = 0.0
    errors: int = 0
    trouble: str = ""


def _by_name_and_version(one: Iterable[VersionState], other: Iterable[VersionState]) -> tuple[VersionState, ...]:
    by_key = ({(version.name, version.version): version for version in versions} for versions in (one, other))
    return tuple(merge(*by_key).values())


@dataclass(frozen=True)
class ServerState(Mergeable):
    """The state of one process, or of several together."""

    versions: tuple[VersionState, ...] = field(default=(), metadata={"merge": _by_name_and_version})
    """Every version that is served, is being loaded, or failed to load."""
    failures: dict[FailureKey, BucketHistogram] = field(default_factory=dict)
    """For requests that ended with an error: the seconds from arrival to the error."""
    loads: dict[tuple[str, str], int] = field(default_factory=dict)
    """Number of loads by model and outcome: "ok", "error" or "evicted"."""
    transports: dict[tuple[str, str], int] = field(default_factory=dict)
    """Number of processes, by transport ("native" or "grpc") and by the reason why this transport was chosen."""
    workers: Workers = field(default=Workers(), metadata={"merge": first})
    """Set by the supervisor, if there is one."""
    shed: dict[str, int] = field(default_factory=dict)
    """For each model, the number of requests that were refused because a queue was full or requests used too much
    memory. The key "" has the requests that were refused before they were read."""
    store: StoreState | None = field(default=None, metadata={"merge": first})
    """Set by the process that follows a model store; None if the models come from a folder."""

    def counts_only(self) -> "ServerState":
        """Return only the counters, which must outlive their process, because Prometheus counters must not fall."""
        versions = tuple(
            replace(version, instances=0, queued=0, max_queue_size=0, state=READY, reason="")
            for version in self.versions
        )
        return replace(self, versions=versions, transports={})

    def restricted_to(self, served: Container[tuple[str, str]]) -> "ServerState":
        """Return the state without counts of versions that are not in ``served``, because such counts would pile up."""
        versions = tuple(version for version in self.versions if (version.name, version.version) in served)
        failures = {key: counts for key, counts in self.failures.items() if not key[1] or key[:2] in served}
        return replace(self, versions=versions, failures=failures)


class FailureCounts:
    """Histograms of the seconds from arrival to error. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: defaultdict[FailureKey, list[int]] = defaultdict(lambda: [0] * (len(SECONDS_BOUNDS) + 1))
        self._seconds: defaultdict[FailureKey, float] = defaultdict(float)
        self._shed: Counter[str] = Counter()

    def record(self, model: str, version: str, code: str, ns: int, *, shed: bool = False) -> None:
        """Count one request that failed. `Engine.record_failure` documents the arguments."""
        key, seconds = (model, version, code), ns / 1e9
        with self._lock:
            self._shed[model] += shed
            self._buckets[key][bisect_left(SECONDS_BOUNDS, seconds)] += 1
            self._seconds[key] += seconds

    def forget_others(self, model: str, versions: Container[str]) -> None:
        """Forget the counts of all versions of a model except ``versions``, to save memory if many versions follow."""
        with self._lock:
            for key in [key for key in self._buckets if key[0] == model and key[1] and key[1] not in versions]:
                del self._buckets[key], self._seconds[key]

    def snapshot(self) -> tuple[dict[FailureKey, BucketHistogram], dict[str, int]]:
        """Return the current histograms, in seconds, and `ServerState.shed`."""
        with self._lock:
            histograms = {
                key: BucketHistogram(SECONDS_BOUNDS, tuple(counts), self._seconds[key])
                for key, counts in self._buckets.items()
            }
            return histograms, dict(self._shed)


class RouteStatistics:
    """Counters of one route. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[StageKey, list[int]] = {}  # the requests and samples of each stage
        self._counts = RouteCounts()  # all other counters

    def begin(self, stages: Iterable[StageKey], zeros: RouteCounts) -> None:
        """Create the missing counters of ``stages`` and ``zeros`` with the value 0, because an alert sees an increase
        only in a series that already exists."""
        with self._lock:
            for key in stages:
                self._stages.setdefault(key, [0, 0])
            self._counts = replace(self._counts + zeros, expected_escalation_rate=zeros.expected_escalation_rate)

    def record(self, key: StageKey, samples: int) -> None:
        """Count the samples that a member answered for one request, in a stage that ``begin`` has started."""
        counts = self._stages[key]
        with self._lock:
            counts[0] += 1
            counts[1] += samples

    def add(self, counts: RouteCounts) -> None:
        """Add counts of unsure answers, or counts of the shadow's copies and comparisons."""
        with self._lock:
            self._counts += counts

    def snapshot(self) -> RouteCounts:
        with self._lock:
            return replace(self._counts, stages={key: StageCounts(*counts) for key, counts in self._stages.items()})
