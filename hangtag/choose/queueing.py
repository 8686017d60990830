"""Predicts latency and throughput of a model or a cascade by simulating each call in the server.

The simulation follows the rules of the server's batcher. A free instance takes all queued calls, up to a full batch. No
call waits for a fuller batch, unless the model's settings have a max_queue_delay. If a cascade does not accept an
answer, the sample enters the next model's queue. Batches that are computed at the same time share the processors
evenly. Each call has one sample.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

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
    """The figures of a load.

    Attributes:
        throughput: The calls per second.
        p99: The 99th percentile of the latency in seconds.
    """

    throughput: float
    p99: float


OVERLOAD = Outcome(0.0, math.inf)
"""The outcome if a queue becomes full."""


def simulate(
    stages: Sequence[Stage],
    sent_on: Sequence[float],
    machine: Machine,
    *,
    rate: float | None = None,
    calls: int = 10_000,
) -> Outcome:
    """Simulate a load.

    Args:
        stages: A single model, or a cascade's models in their order.
        sent_on: For each stage except the last, the share of its samples that the stage passes on to the next stage.
        machine: The machine on which the server runs.
        rate: The calls per second, which arrive independently of each other (Poisson); None for a closed loop with 64
            calls in flight.
        calls: The number of calls to simulate.

    Returns:
        The latency and throughput, or OVERLOAD if a queue becomes full.
    """
    random = np.random.default_rng(0)
    in_flight = 0 if rate else IN_FLIGHT
    most = [max(stage.max_queue_size, in_flight) for stage in stages]
    gaps = iter(random.exponential(1 / rate, 2 * calls + max(most)).tolist() if rate else ())
    queues = [deque[tuple[float, float]]() for _ in stages]  # when a call arrived at the server, and in this queue
    queues[0].extend([(0.0, 0.0)] * in_flight)
    free = [stage.instances for stage in stages]
    # A heap of the batches that are computed: the value of `computed` at which a batch ends, the stage, and the arrival
    # of each call at the server. `computed` is the processor time that a batch has received if it is never finished.
    computing = list[tuple[float, int, list[float]]]()
    now, computed, arrival, latencies = 0.0, 0.0, next(gaps, math.inf), list[float]()
    while len(latencies) < calls:
        event = arrival
        for number, (stage, queue) in enumerate(zip(stages, queues, strict=True)):
            delay = stage.max_queue_delay
            while (
                queue and free[number] and (len(queue) >= stage.max_batch_size or queue[0][1] + delay <= now + _MOMENT)
            ):
                # The free instances of a model take equal shares of the waiting calls, because in a real server calls
                # arrive one by one. With a max_queue_delay, an instance instead takes as many calls as it can.
                count = min(stage.max_batch_size, len(queue) if delay else math.ceil(len(queue) / free[number]))
                overhead = 0.0 if number else machine.call_seconds
                overhead += machine.member_seconds if len(stages) > 1 else 0.0
                seconds = stage.of(count) * machine.stretch + overhead * count
                heappush(computing, (computed + seconds, number, [queue.popleft()[0] for _ in range(count)]))
                free[number] -= 1
            if len(queue) > most[number]:
                return OVERLOAD
            if queue and free[number]:
                event = min(event, queue[0][1] + delay)
        pace = min(1.0, machine.processors / max(1, len(computing)))
        if computing:
            event = min(event, now + (computing[0][0] - computed) / pace)
        computed, now = computed + (event - now) * pace, event
        if arrival <= now:
            queues[0].append((arrival, arrival))
            arrival += next(gaps)
        while computing and computing[0][0] <= computed + _MOMENT:
            _, number, batch = heappop(computing)
            free[number] += 1
            further = random.random(len(batch)) < sent_on[number] if number < len(sent_on) else [False] * len(batch)
            for came, goes_on in zip(batch, further, strict=True):
                if goes_on:
                    queues[number + 1].append((came, now))
                    continue
                latencies.append(now - came)
                if in_flight:
                    queues[0].append((now, now))
    return Outcome(len(latencies) / now, float(np.percentile(latencies, 99)))
