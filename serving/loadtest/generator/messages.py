"""What goes to the processes that send, and what comes back while they do."""

from dataclasses import dataclass, field

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.plan.load import Limits, Load

INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY = "/hangtag.v1.Classifier/Classify"


@dataclass(frozen=True)
class RequestPool:
    """What is sent to one target: its server, the gRPC method, and serialised requests to take turns with."""

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class CallSettings:
    """How servers are called. `per_process` connections are opened to each; every call gets `deadline` seconds."""

    per_process: int = 1
    deadline: float = 10.0
    credentials: Credentials = field(default_factory=Credentials)
    public_api: bool = False  # Take grpcio's public API even where the faster path works.


@dataclass(frozen=True)
class Block:
    """One order to the generator: queries to one target under one load. `round` tells its schedule from the others'.

    `start` is when it begins, on the monotonic clock that all processes of a machine share. `first` is the place of the
    request that it sends first.
    """

    target: str
    load: Load
    limits: Limits
    warm_up: float
    seed: int
    round: int
    start: float = 0.0
    first: int = 0


@dataclass(frozen=True)
class Snapshot:
    """How a running block stands. Seconds, and queries a second."""

    elapsed: float
    queries: int
    failed: int
    rate: float
    p50: float
    p99: float
