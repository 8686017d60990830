"""What supervisor and workers say to each other. A call that fails raises at the caller what it raised at the other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Either way: load this model, in this worker or in all."""

    name: str


@dataclass(frozen=True)
class Unload:
    """Either way: take this model out of service."""

    name: str


@dataclass(frozen=True)
class GetState:
    """Either way: the ServerState, of this worker or of all."""


@dataclass(frozen=True)
class Poll:
    """To a worker: look at the repository."""


@dataclass(frozen=True)
class Stop:
    """To a worker: drain and end."""


@dataclass(frozen=True)
class Loaded:
    """From a worker that has loaded its models and does not listen yet. The answer names models that changed
    meanwhile: which are wanted, and which not any more."""


@dataclass(frozen=True)
class Listening:
    """From a worker that takes calls."""


@dataclass(frozen=True)
class Failed:
    """From a worker that cannot start, and why; it ends."""

    reason: str
