"""Predicts latency and throughput of a model or a cascade by simulating each call in the server.

The simulation follows the rules of the server's batcher. A free instance takes all queued calls, up to a full batch. No
call waits for a fuller batch, unless the model's settings have a max_queue_delay. If a cascade does not accept an
answer, the sample enters the next model's queue. Batches that are computed at the same time share the processors
evenly. Each call has one sample.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

IN_FLIGHT = 64
"""The number of calls that a closed loop keeps in flight."""
_MOMENT = 1e-9
"""The largest difference in seconds between two events that the simulation treats as simultaneous."""


@dataclass(frozen=True)
class Stage:
    """A model in a simulation: the times of its batches, and the settings by which a server batches its calls.

    The settings come from the server or the model's serving.toml.

    Attributes:
        sizes: The measured batch sizes, ascending.
        seconds: The time that one processor takes to compute a batch of each size.
        instances: The number of batches that are computed at the same time.
        max_batch_size: The largest number of samples in a batch.
        max_queue_size: The largest number of calls that wait.
        max_queue_delay: The number of seconds for which a call may be held back to fill a batch.
    """

    sizes: Sequence[int]
    seconds: Sequence[float]
    instances: int = 2
    max_batch_size: int = 64
    max_queue_size: int = 256
    max_queue_delay: float = 0.0

    def of(self, samples: int) -> float:
        """Return the seconds for a batch of this many samples.

        The time is interpolated between two measured sizes. Above the largest size, the time is proportional to the
        number of samples.

        Example:
            >>> Stage((1, 64), (0.001, 0.064)).of(2)
            0.002
        """
        return float(np.interp(samples, self.sizes, self.seconds)) * max(1.0, samples / self.sizes[-1])

    @property
    def per_sample(self) -> float:
        """The seconds per sample in the largest batch."""
        return self.seconds[-1] / self.sizes[-1]


@dataclass(frozen=True)
class Machine:
    """The machine on which the server runs.

    Attributes:
        processors: The number of processors.
        call_seconds: The processor time of a call in addition to computing. This time includes the transport, and the
            load generator if the generator runs on the same processors.
        stretch: The factor by which computing a batch takes longer in a busy server than on an idle machine. In a busy
            server, other threads interrupt the computation and use the processor's caches.
        member_seconds: The processor time that a cascade takes to call one of its models, in addition to computing.
    """

    processors: int
    call_seconds: float
    stretch: float = 1.0
    member_seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The latency and throughput that a simulation predicts. Times are in seconds."""

    throughput: float
    p50: float
    p99: float


OVERLOAD = Outcome(0.0, math.inf, math.inf)
"""The outcome if a queue becomes full."""


@dataclass
class _Batch:
    stage: int
    calls: list[float]
    """The time at which each call arrived."""
    left: float
    """The processor time that the batch still needs, in seconds."""


@dataclass(frozen=True)
class _Waiting:
    came: float
    """The time at which the call arrived at the server."""
    queued: float
    """The time at which the call entered this queue."""


@dataclass
class _Server:
    """The queues and the batches of the simulated server at one moment."""

    stages: Sequence[Stage]
    machine: Machine
    now: float = 0.0
    queues: list[deque[_Waiting]] = field(init=False)
    computing: list[_Batch] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.queues = [deque() for _ in self.stages]

    def put(self, stage: int, came: float) -> None:
        """Put a call into a stage's queue. ``came`` is the time at which the call arrived at the server."""
        self.queues[stage].append(_Waiting(came, self.now))

    def _free(self, stage: int) -> int:
        computing = sum(batch.stage == stage for batch in self.computing)
        return self.stages[stage].instances - computing

    def start_batches(self) -> None:
        """Start a batch on each free instance for which calls wait.

        The free instances of a model take equal shares of the waiting calls, because in a real server calls arrive one
        by one. If the model has a max_queue_delay, an instance instead takes as many calls as max_batch_size allows.
        """
        for number, (stage, queue) in enumerate(zip(self.stages, self.queues, strict=True)):
            most, delay = stage.max_batch_size, stage.max_queue_delay
            free = self._free(number)
            while queue and free > 0 and (len(queue) >= most or queue[0].queued + delay <= self.now + _MOMENT):
                count = min(most, len(queue) if delay else math.ceil(len(queue) / free))
                calls = [queue.popleft().came for _ in range(count)]
                overhead = 0.0 if number else self.machine.call_seconds
                if len(self.stages) > 1:
                    overhead += self.machine.member_seconds
                seconds = stage.of(len(calls)) * self.machine.stretch + overhead * len(calls)
                self.computing.append(_Batch(number, calls, seconds))
                free -= 1

    @property
    def pace(self) -> float:
        """Return the seconds of processor time that each batch receives per second."""
        return min(1.0, self.machine.processors / len(self.computing)) if self.computing else 1.0

    @property
    def next_step(self) -> float:
        """Return the seconds until the next batch ends or begins, if no call arrives before then."""
        ends = [batch.left / self.pace for batch in self.computing]
        held = [
            queue[0].queued + stage.max_queue_delay - self.now
            for number, (stage, queue) in enumerate(zip(self.stages, self.queues, strict=True))
            if queue and self._free(number) > 0
        ]
        return min([*ends, *held], default=math.inf)

    def pass_time(self, seconds: float) -> list[_Batch]:
        """Advance the simulation by this many seconds. Returns and removes the batches that are finished."""
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
        stages: A single model, or a cascade's models in their order.
        sent_on: For each stage except the last, the share of its samples that the stage passes on to the next stage.
        machine: The machine on which the server runs.
        rate: The calls per second, which arrive independently of each other (Poisson); None for a closed loop.
        in_flight: The number of calls that a closed loop keeps in flight.
        calls: The number of calls to simulate.
        seed: The seed of the random numbers that determine arrival times and which samples are passed on.

    Returns:
        The latency and throughput, or OVERLOAD if a queue becomes full.
    """
    random = np.random.default_rng(seed)
    most = [max(stage.max_queue_size, 0 if rate else in_flight) for stage in stages]
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
