"""The results as JSON, for programs: the types below are the schema, and `SCHEMA` is its version.

Durations are seconds, rates calls or samples a second; missing figures are null. Within a version fields are only
added. Histograms are HdrHistogram's V2 encoding in base64, unit 1 µs, three significant digits: any HdrHistogram
library reads and merges them. docs/loadtest.schema.json is generated from these types (report/schema.py).
"""

from typing import Literal, TypedDict

SCHEMA = "hangtag.loadtest/1"


class LoadDocument(TypedDict):
    """The load of a run: `concurrency` for a closed loop, `rate` and `arrivals` for an open one."""

    kind: Literal["closed loop", "open loop"]
    concurrency: int | None
    rate: float | None  # Calls a second, as planned.
    arrivals: str | None  # poisson or constant


class DurationsDocument(TypedDict):
    """A distribution of durations in seconds. `histogram` holds all of it."""

    count: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    max: float | None
    histogram: str


class SliceDocument(TypedDict):
    """The answers that arrived in a short part of a block; it starts `start` seconds after the test did."""

    start: float
    length: float
    answered: int
    failed: int
    p50: float | None
    p99: float | None
    max: float | None


class ServerTimingsDocument(TypedDict):
    """The server's own statistics: mean seconds that a request spent in each part, the warm-up's requests included."""

    requests: int
    batches: int
    queue: float | None
    compute_input: float | None
    compute_infer: float | None
    compute_output: float | None


class MeasuredDocument(TypedDict):
    """What was measured, in one block or over all blocks of a run."""

    queries: int  # Sent and ended, without the warm-up's.
    warm_up_queries: int  # Discarded.
    duration: float  # Of the measuring, without the warm-up.
    throughput: float  # Answered calls a second.
    statuses: dict[str, int]  # gRPC status code to count, OK included.
    delayed_queries: int  # Open loop: sent more than 5 ms later than planned.
    finished: bool  # Both minima were reached, and nothing stopped it early.
    generator_cpu: float  # CPUs that the generator's busiest process used.
    generator_busy: float  # The share of the time that its busiest thread computed or waited for a CPU.
    generator_cpu_share: float  # The share of the CPUs it may use that the generator took, with all of its processes.
    cpus_busy: float  # The share of the time that these were busy; 0 where they are not the server's too.
    others_cpu_share: float | None  # The share of this machine's CPUs that other programs took; null where unknown.
    latency: DurationsDocument  # From the planned send time to the answer; answered calls only.
    service_time: DurationsDocument  # From the actual send time to the answer; answered calls only.
    lateness: DurationsDocument  # From the planned to the actual send time; every call.
    server: ServerTimingsDocument | None  # Null where the server keeps no statistics, restarted, or is one of several.
    timeline: list[SliceDocument]


class RunDocument(TypedDict):
    """One target under one load."""

    target: str
    model: str  # The model's name on its server.
    load: LoadDocument
    valid: bool
    problems: list[str]  # Why it is not valid.
    notes: list[str]  # What a reader should know of a valid run.
    doubt: str | None  # Why its figures are doubtful, valid or not: other programs took much of the CPUs.
    batch_size: int
    planned_blocks: int
    samples_per_second: float
    percentile: float  # The percentile that it is judged by, for example 99.
    percentile_bound: float | None  # Its upper bound, with 99 % confidence; null with too few queries.
    target_latency: float | None
    # Whether the percentile keeps the target latency, with 99 % confidence; null without one, or with too few queries.
    keeps_target: bool | None
    judged: bool  # Judged by the percentile: with too few queries to tell it, the run is not valid.
    restarted: bool
    counted_in_part: bool  # The server's counters lack queries, as those of one of several behind an address do.
    generator_ceiling: float | None  # Calls a second on a server that computes nothing.
    limited_by_generator: bool  # A generator that takes less CPU time may see a higher throughput; the notes say why.
    error_messages: dict[str, str]  # The first message of each status but OK.
    total: MeasuredDocument
    blocks: list[MeasuredDocument]  # In the order they ran; block i of every target ran next to each other.


class IntervalDocument(TypedDict):
    """A ratio with its 95 % interval (Student's t, over blocks); low and high are null with a single block."""

    ratio: float | None
    low: float | None
    high: float | None


class ComparisonDocument(TypedDict):
    """A target's figures as multiples of the baseline's, under one load."""

    model: str  # The target's name.
    baseline: str
    load: LoadDocument
    throughput: IntervalDocument
    p50: IntervalDocument
    p99: IntervalDocument
    sentence: str
    meaningful: bool  # False where one of the two runs is not valid.
    doubt: str | None  # Which of the two runs are doubtful.


class ServerDocument(TypedDict):
    """A server, as it describes itself."""

    address: str
    name: str
    version: str


class AccuracyDocument(TypedDict):
    """The accuracy over every labelled sample, sent once each; low and high are the 95 % interval."""

    correct: int
    total: int
    accuracy: float
    low: float
    high: float
    expected: float | None  # The accuracy on its test set that the model's file records.


class TargetDocument(TypedDict):
    """A target, as its server describes it. Empty or null where the server does not say."""

    name: str
    model: str
    method: str  # infer or classify
    server: ServerDocument
    model_versions: list[str]  # The loaded versions.
    answering_version: str  # The loaded version that answered.
    execution_provider: str
    onnxruntime_version: str
    threads: str  # Its instances and their threads, in words.
    max_batch_size: int | None
    file_bytes: int | None
    samples: str  # Where its samples come from.
    accuracy: AccuracyDocument | None


class PeakDocument(TypedDict):
    """The highest rate at which a target keeps the target latency, and every run of the search."""

    target: str
    rate: float | None
    sentence: str
    limited_by_generator: bool
    steps: list[RunDocument]


class CacheCheckDocument(TypedDict):
    """The throughput with one repeated sample, as a multiple of that with samples never sent before."""

    target: str
    speedup: IntervalDocument
    problem: str | None


class TransportDocument(TypedDict):
    """The mean time of a call outside of the model over gRPC and over HTTP, for two targets that are one model."""

    load: LoadDocument
    grpc: str  # The target's name.
    http: str
    grpc_seconds: float
    http_seconds: float


class CeilingDocument(TypedDict):
    """What the generator reached on a server that computes nothing."""

    load: LoadDocument
    protocol: str  # gRPC or HTTP.
    throughput: float
    p50: float | None
    p99: float | None
    delayed_share: float


class GateDocument(TypedDict):
    """A --fail-if condition and its outcome."""

    condition: str
    failed: bool
    sentence: str


class ResultsDocument(TypedDict):
    """The whole file."""

    schema: str
    valid: bool
    problems: list[str]  # Why the test as a whole is not valid, apart from its runs.
    interrupted: bool
    started: str  # ISO 8601, UTC
    duration: float
    command: str
    scenario: dict[str, object]  # Every setting, the defaults included.
    server: ServerDocument  # The first target's.
    targets: list[TargetDocument]
    samples: dict[str, str]  # Target to where its samples come from.
    environment: dict[str, str]
    runs: list[RunDocument]
    comparisons: list[ComparisonDocument]
    transports: list[TransportDocument]
    peaks: list[PeakDocument]
    caching: list[CacheCheckDocument]
    generator_ceilings: list[CeilingDocument]
    gates: list[GateDocument]
