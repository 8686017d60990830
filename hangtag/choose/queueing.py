"""Predicts latency and throughput of a model or a cascade by simulating each call in the server.

The simulation follows the rules of the server's batcher. A free instance takes all queued calls, up to a full batch. No
call waits for a fuller batch, unless the model's settings have a max_queue_delay. If a cascade does not accept an
answer, the sample enters the next model's queue. Batches that are computed at the same time share the processors
evenly. Each call has one sample.
"""

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from hangtag.choose.candidates import OVERLOAD, Candidate, Model, Outcome

IN_FLIGHT = 64
"""The number of calls that a closed loop keeps in flight."""
_MOMENT = 1e-9
"""The largest difference in seconds between two events that the simulation treats as simultaneous."""


@dataclass(frozen=True)
class Machine:
    """The machine on which the server runs. The load generator may run on the same processors."""

    processors: int
    call_seconds: float = 0.0  # the processor time of a call without the inference, with the generator's share
    # The factor by which computing a batch takes longer in a busy server, whose other threads interrupt the computation
    # and use the processor's caches.
    stretch: float = 1.0
    member_seconds: float = 0.0  # the processor time of a cascade to call one of its models, without the inference


def simulate(cascade: Candidate, machine: Machine, rate: float | None = None, calls: int = 10_000) -> Outcome:
    """Simulate a number of calls to a candidate. If a queue becomes full, return OVERLOAD.

    Calls arrive at a rate, in calls per second, independently of each other (Poisson). If the rate is None, a closed
    loop keeps 64 calls in flight.
    """
    random = np.random.default_rng(0)
    in_flight = 0 if rate else IN_FLIGHT
    models, settings = cascade.models, [model.settings for model in cascade.models]
    sent_on = [after / max(before, 1e-9) for before, after in pairwise(cascade.reached)]  # the share of each stage
    most = [max(each.max_queue_size, in_flight) for each in settings]
    gaps = iter(random.exponential(1 / rate, 2 * calls + max(most)).tolist() if rate else ())
    queues = [deque[tuple[float, float]]() for _ in models]  # arrival times at the server and in this queue
    queues[0].extend([(0.0, 0.0)] * in_flight)
    free = [each.instance_count for each in settings]
    # `computed` is the processor time that a batch would have received if it had been running since the start.
    # `computing` is a heap of running batches: the value of `computed` at the batch's end, the stage, and the arrival
    # times of its calls.
    computing = list[tuple[float, int, list[float]]]()
    now, computed, arrival, latencies = 0.0, 0.0, next(gaps, math.inf), list[float]()
    while len(latencies) < calls:
        event = arrival
        for number, queue in enumerate(queues):
            delay, largest = settings[number].max_queue_delay_microseconds / 1e6, settings[number].max_batch_size
            while queue and free[number] and (len(queue) >= largest or queue[0][1] + delay <= now + _MOMENT):
                # The free instances of a model take equal shares of the waiting calls, because in a real server calls
                # arrive one by one. With a max_queue_delay, an instance instead takes as many calls as it can.
                count = min(largest, len(queue) if delay else math.ceil(len(queue) / free[number]))
                overhead = 0.0 if number else machine.call_seconds
                overhead += machine.member_seconds if cascade.is_cascade else 0.0
                seconds = _seconds(models[number], count) * machine.stretch + overhead * count
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


def _seconds(model: Model, samples: int) -> float:
    """Return the time of a batch: interpolated between two measured sizes, and proportional to the number of samples
    above the largest size."""
    sizes = [*model.seconds]
    return float(np.interp(samples, sizes, [*model.seconds.values()])) * max(1.0, samples / sizes[-1])
