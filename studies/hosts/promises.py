"""What callers may rely on while a host fails, and whether it was so."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.hosts.lab import PROXY, SERVERS
from studies.results import Line

SHORT_TIMEOUT = 0.4
_BALANCED = (SERVERS, "--round-robin")
_NO_RETRIES = ("--retries", "0")
RETRYING = ("Client", "AsyncClient", "proxy")
BALANCED, PROXIED, HURRIED = "AsyncClient, no retries", "proxy, no retries", "AsyncClient, 0.4 s deadline"
CALLERS: Mapping[str, Sequence[str]] = {
    "Client": (*_BALANCED, "--threads"),
    "AsyncClient": _BALANCED,
    BALANCED: (*_BALANCED, *_NO_RETRIES),
    HURRIED: (*_BALANCED, "--timeout", str(SHORT_TIMEOUT)),
    "proxy": (PROXY,),
    PROXIED: (PROXY, *_NO_RETRIES),
}
"""The address and options of each caller."""
NETWORK_FAULTS = ("stopped", "killed", "cut", "slow", "lossy")


@dataclass(frozen=True)
class Promise:
    """A bound on one of the figures.

    Args:
        text: what is promised.
        unit: of the bound.
        bound: the largest value that keeps it.
        values: finds its values in the lines of the faults, by their names.
    """

    text: str
    unit: str
    bound: float
    values: Callable[[Mapping[str, Line]], Iterator[float]]

    def worst(self, faults: Mapping[str, Line]) -> float:
        """The largest of its values."""
        return max(self.values(faults))

    def kept(self, faults: Mapping[str, Line]) -> bool:
        """Whether the worst is within the bound."""
        return self.worst(faults) <= self.bound


def _each(faults: Mapping[str, Line], names: Sequence[str], callers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The figures of these callers in these faults."""
    for name in names:
        for caller in callers:
            yield faults[name]["callers"][caller]


def _failed(figures: Mapping[str, Any], *, but: str = "") -> int:
    return sum(count for status, count in figures["failed"].items() if status != but)


PROMISES = (
    Promise(
        "With retries and a deadline of 10 s no call fails, unless the queue is full",
        "calls",
        0,
        lambda faults: (_failed(each) for each in _each(faults, NETWORK_FAULTS, RETRYING)),
    ),
    Promise(
        "Without retries a killed server fails only the calls that it had: the clients send it none after 0.1 s",
        "s",
        0.1,
        lambda faults: (each["failed_until_s"] for each in _each(faults, ["killed"], [BALANCED, PROXIED])),
    ),
    Promise(
        "A host whose cable is cut gets no call after `keepalive_timeout_seconds` (5 s), and a second to notice",
        "s",
        6,
        lambda faults: (each["failed_until_s"] for each in _each(faults, ["cut"], [BALANCED, PROXIED])),
    ),
    Promise(
        "A slow or lossy network fails no call, without retries either",
        "calls",
        0,
        lambda faults: (_failed(each) for each in _each(faults, ["slow", "lossy"], [BALANCED, PROXIED])),
    ),
    Promise(
        "A full queue refuses calls (RESOURCE_EXHAUSTED) at once",
        "s",
        0.2,
        lambda faults: (each["refused_s"] for each in _each(faults, ["full"], list(CALLERS))),
    ),
    Promise(
        "And fails no call in another way",
        "calls",
        0,
        lambda faults: (
            _failed(each, but="RESOURCE_EXHAUSTED") for each in _each(faults, ["full"], [*RETRYING, BALANCED, PROXIED])
        ),
    ),
    Promise(
        "A host that recovered has its share of the calls again within 10 s",
        "s",
        10,
        lambda faults: (
            float("inf") if each["back_s"] is None else each["back_s"]
            for each in _each(faults, list(faults), list(CALLERS))
        ),
    ),
    Promise(
        "No call lasts longer than its deadline by more than 0.1 s",
        "s",
        0.1,
        lambda faults: (each["overrun_s"] for each in _each(faults, list(faults), list(CALLERS))),
    ),
)
