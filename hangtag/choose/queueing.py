"""Predicts latency and throughput of a model or a cascade by simulating the server's rules, call by call.

The rules are those of the server's batcher: a free instance takes what is queued, up to a full batch, and nothing waits
for a fuller batch unless the model's settings say so. A cascade's doubtful samples go into the next model's queue.
Batches that compute at the same time share the processors evenly. Each call has one sample.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

IN_FLIGHT = 64
"""Calls of a closed loop."""
_MOMENT = 1e-9
"""Events at most this many seconds apart happen at once."""


@dataclass(frozen=True)
class ServiceTimes:
    """How long one processor computes a batch, by the batch's size.

    Attributes:
        sizes: Measured sizes, ascending.
        seconds: The time of a batch of each size.
    """

    sizes: Sequence[int]
    seconds: Sequence[float]

    def of(self, samples: int) -> float:
        """Seconds for a batch of this many samples: interpolated between two measured sizes; above the largest size, in
        proportion to it.

        Example:
            >>> ServiceTimes((1, 64), (0.001, 0.064)).of(2)
            0.002
        """
        return float(np.interp(samples, self.sizes, self.seconds)) * max(1.0, samples / self.sizes[-1])

    @property
    def per_sample(self) -> float:
        """Seconds for a sample of the largest batch."""
        return self.seconds[-1] / self.sizes[-1]


@dataclass(frozen=True)
class Batching:
    """How a server batches a model's calls: the settings of these names, from the server or the model's serving.toml.

    Attributes:
        instances: How many batches compute at once.
        max_batch_size: Samples in a batch.
        max_queue_size: Calls that may wait.
        max_queue_delay: Seconds for which a call may be held back to fill a batch.
    """

    instances: int = 2
    max_batch_size: int = 64
    max_queue_size: int = 256
    max_queue_delay: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A model in a simulation: how long it computes, and how its calls are batched."""

    times: ServiceTimes
    batching: Batching = Batching()


@dataclass(frozen=True)
class Machine:
    """Where the server runs.

    Attributes:
        processors: How many there are.
        call_seconds: Processor time of a call besides computing: of its transport, and of the load generator if that
            runs on the same processors.
        stretch: How many times as long as alone a batch computes in a busy server, where other threads interrupt it
            and use its caches.
        member_seconds: Processor time that a cascade takes to ask a member for a call, besides computing.
    """

    processors: int
    call_seconds: float
    stretch: float = 1.0
    member_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a simulation measured. Times are in seconds."""

    throughput: float
    p50: float
    p99: float


OVERLOAD = Outcome(0.0, math.inf, math.inf)
"""The outcome of a rate that fills a queue."""


@dataclass
class _Batch:
    stage: int
    calls: list[float]
    """When each call came."""
    left: float
    """Seconds of one processor until the batch is computed."""


@dataclass(frozen=True)
class _Waiting:
    came: float
    """When the call came to the server."""
    queued: float
    """When the call came into this queue."""


@dataclass
class _Server:
    """Queues and batches at one moment."""

    stages: Sequence[Stage]
    machine: Machine
    now: float = 0.0
    queues: list[deque[_Waiting]] = field(init=False)
    computing: list[_Batch] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.queues = [deque() for _ in self.stages]

    def put(self, stage: int, came: float) -> None:
        """Queue a call now that came to the server at this time."""
        self.queues[stage].append(_Waiting(came, self.now))

    def _free(self, stage: int) -> int:
        computing = sum(batch.stage == stage for batch in self.computing)
        return self.stages[stage].batching.instances - computing

    def start_batches(self) -> None:
        """Let each free instance take an equal share of the calls that wait for its model, since calls come one by one.

        If a delay gathers calls, one instance takes all that its batch has room for.
        """
        for number, (stage, queue) in enumerate(zip(self.stages, self.queues, strict=True)):
            most, delay = stage.batching.max_batch_size, stage.batching.max_queue_delay
            free = self._free(number)
            while queue and free > 0 and (len(queue) >= most or queue[0].queued + delay <= self.now + _MOMENT):
                count = min(most, len(queue) if delay else math.ceil(len(queue) / free))
                calls = [queue.popleft().came for _ in range(count)]
                overhead = 0.0 if number else self.machine.call_seconds
                if len(self.stages) > 1:
                    overhead += self.machine.member_seconds
                seconds = stage.times.of(len(calls)) * self.machine.stretch + overhead * len(calls)
                self.computing.append(_Batch(number, calls, seconds))
                free -= 1

    @property
    def pace(self) -> float:
        """Seconds of a processor that each batch gets in a second."""
        return min(1.0, self.machine.processors / len(self.computing)) if self.computing else 1.0

    @property
    def next_step(self) -> float:
        """Seconds until the next batch is computed or has waited long enough to begin, if nothing else happens."""
        ends = [batch.left / self.pace for batch in self.computing]
        held = [
            queue[0].queued + stage.batching.max_queue_delay - self.now
            for number, (stage, queue) in enumerate(zip(self.stages, self.queues, strict=True))
            if queue and self._free(number) > 0
        ]
        return min([*ends, *held], default=math.inf)

    def pass_time(self, seconds: float) -> list[_Batch]:
        """Compute for this long. Returns the batches that end, and drops them."""
        pace = self.pace
        for batch in self.computing:
            batch.left -= seconds * pace
        self.now += seconds
        ended = [batch for batch in self.computing if batch.left <= _MOMENT]
        self.computing = [batch for batch in self.computing if batch.left > _MOMENT]
        return ended


def simulate(
    stages: Sequence[Stage],
    sent_on: Sequence[float],
    machine: Machine,
    *,
    rate: float | None = None,
    in_flight: int = IN_FLIGHT,
    calls: int = 10_000,
    seed: int = 0,
) -> Outcome:
    """Simulate a load.

    Args:
        stages: A model, or a cascade's models in their order.
        sent_on: For each stage but the last, the share of its samples that it sends on to the next.
        machine: Where the server runs.
        rate: Calls a second that come independently of each other (Poisson); None for a closed loop.
        in_flight: How many calls a closed loop keeps in flight.
        calls: How many calls are answered.
        seed: Decides the arrivals, and which samples go on.

    Returns:
        Latency and throughput; OVERLOAD if more calls come than are answered.
    """
    random = np.random.default_rng(seed)
    most = [max(stage.batching.max_queue_size, 0 if rate else in_flight) for stage in stages]
    gaps = iter(random.exponential(1 / rate, 2 * calls + max(most)).tolist() if rate else ())
    server, latencies = _Server(stages, machine), list[float]()
    arrival = next(gaps, math.inf)
    for _ in range(0 if rate else in_flight):
        server.put(0, 0.0)
    while len(latencies) < calls:
        server.start_batches()
        if any(len(queue) > limit for queue, limit in zip(server.queues, most, strict=True)):
            return OVERLOAD
        step, until_arrival = server.next_step, arrival - server.now
        ended = server.pass_time(min(step, until_arrival))
        if until_arrival <= step:
            server.put(0, arrival)
            arrival += next(gaps)
        for batch in ended:
            goes_on = [False] * len(batch.calls)
            if batch.stage < len(sent_on):
                goes_on = (random.random(len(batch.calls)) < sent_on[batch.stage]).tolist()
            for came, further in zip(batch.calls, goes_on, strict=True):
                if further:
                    server.put(batch.stage + 1, came)
                else:
                    latencies.append(server.now - came)
                    if not rate:
                        server.put(0, server.now)
    p50, p99 = np.percentile(latencies, (50, 99)).tolist()
    return Outcome(len(latencies) / server.now, p50, p99)
