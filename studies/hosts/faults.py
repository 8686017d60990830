"""The ways in which one of the hosts fails and recovers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from studies.hosts.lab import ADDRESSES, PORT, Host, Lab

_TRANSIT = 0.1  # seconds each way
_LOSS = 0.05
_FLOOD = ("--samples", "64", "--rate", "300", "--retries", "0")
"""Several times as many full batches as one thread computes."""


@contextmanager
def stopped(_lab: Lab, host: Host) -> Iterator[None]:
    """The server is stopped as for an upgrade, and started again."""
    host.stop()
    yield
    host.start()


@contextmanager
def killed(_lab: Lab, host: Host) -> Iterator[None]:
    """The server is killed, and started again."""
    host.kill()
    yield
    host.start()


@contextmanager
def cut(_lab: Lab, host: Host) -> Iterator[None]:
    """The cable carries nothing, so that neither end hears of it."""
    host.cable.loss = 1.0
    yield
    host.cable.heal()


@contextmanager
def slow(_lab: Lab, host: Host) -> Iterator[None]:
    """Each answer comes 200 ms later."""
    host.cable.delay = _TRANSIT
    yield
    host.cable.heal()


@contextmanager
def lossy(_lab: Lab, host: Host) -> Iterator[None]:
    """The cable loses packets at random."""
    host.cable.loss = _LOSS
    yield
    host.cable.heal()


@contextmanager
def full(lab: Lab, host: Host) -> Iterator[None]:
    """Another caller keeps the server's queue full."""
    flood = lab.caller(f"{ADDRESSES[host.number]}:{PORT}", *_FLOOD)
    try:
        flood.wait_until(lambda calls: any(call.outcome == "RESOURCE_EXHAUSTED" for call in calls))
        yield
    finally:
        flood.close()


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Args:
        text: what happens to the host, as the page says it.
        during: a context in which the host has failed; it has recovered when the context is left.
        seconds: how long that lasts in a run.
    """

    text: str
    during: Callable[[Lab, Host], AbstractContextManager[None]]
    seconds: float


FAULTS = {
    "stopped": Fault("stopped (SIGTERM), started again", stopped, 5),
    "killed": Fault("killed (SIGKILL), started again", killed, 5),
    "cut": Fault("cable cut", cut, 15),
    "slow": Fault("200 ms slower", slow, 10),
    "lossy": Fault("5 % of its packets lost", lossy, 15),
    "full": Fault("queue full", full, 10),
}
