"""The messages between the reporting process and the generator's processes, which travel pickled through pipes."""

from dataclasses import dataclass, field

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import Load

INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY = "/hangtag.v1.Classifier/Classify"


@dataclass(frozen=True)
class RequestPool:
    """The serialised requests for one target, sent in rotation; `method` is the full gRPC method name."""

    address: str
    method: str
    requests: tuple[bytes, ...]


@dataclass(frozen=True)
class CallSettings:
    """How calls are made: connections per process and server, the deadline of each call in seconds, credentials.

    A call that has not ended `lost_after` seconds after its deadline is lost. Under overload gRPC's core (grpcio 1.85)
    at times reports no end of a call whose connection the server has cut.
    """

    channels: int = 1
    deadline: float = 10.0
    credentials: Credentials = field(default_factory=Credentials)
    public_api: bool = False  # Use grpcio's public API even where its completion queue works.
    lost_after: float = 5.0


@dataclass(frozen=True)
class Block:
    """A part of a run: queries to one target under one load, without a pause.

    Attributes:
        target: The target's name.
        load: The load.
        limits: When the block ends.
        warm_up: Seconds before measuring starts.
        seed: The test's seed.
        round: Distinguishes the schedules of blocks with one seed.
        start: When the block starts on the monotonic clock, which all processes of a machine share; 0 is now.
        first: The index of the first request to send.
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
    """The progress of a block: seconds, queries, queries per second."""

    elapsed: float
    queries: int
    failed: int
    rate: float
    p50: float
    p99: float
