"""The messages between supervisor and workers. What the receiver raises, the sender's call raises."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Load this model: to a worker, in that worker; to the supervisor, in all workers."""

    name: str


@dataclass(frozen=True)
class Unload:
    """Take this model out of service: to a worker, in that worker; to the supervisor, in all workers."""

    name: str


@dataclass(frozen=True)
class GetState:
    """Return the ServerState: of a worker, or from the supervisor of all workers together."""


@dataclass(frozen=True)
class Poll:
    """To a worker: read the model repository and serve what has changed."""


@dataclass(frozen=True)
class Stop:
    """To a worker: drain and end."""


@dataclass(frozen=True)
class Loaded:
    """From a worker that has loaded its models and does not listen yet.

    The answer is the models that clients changed meanwhile: a set to load and a set to unload.
    """


@dataclass(frozen=True)
class Listening:
    """From a worker that takes calls."""


@dataclass(frozen=True)
class StartFailed:
    """From a worker that cannot start, and why; it ends."""

    reason: str
