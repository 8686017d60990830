"""The Poisson schedule of an open loop: when each query is due, computed before the first query leaves."""

import math
import zlib

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import OpenLoop

Times = npt.NDArray[np.float64]


def random_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A separate random generator for each purpose (samples, schedule, order), so that no purpose shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *index])


def planned_send_times(load: OpenLoop, limits: Limits, warm_up: float, random: np.random.Generator) -> Times:
    """Compute the planned send times of one block, the warm-up's included.

    The gaps of a Poisson process are independent and exponentially distributed with mean 1 / rate; constant arrivals
    have equal gaps. The schedule ends with the first query that reaches both minima of `limits`, counted from the end
    of the warm-up, or with the last query before a maximum is exceeded.

    Args:
        load: The request rate and the kind of arrivals.
        limits: The block's limits.
        warm_up: In seconds.
        random: The source of the gaps.

    Returns:
        Ascending times [queries] in seconds from the block's start.
    """
    times = np.empty(0)
    while not _is_enough(times, limits, warm_up):
        start = times[-1] if times.size else 0.0
        # A tenth more than the expected number of queries: one draw is nearly always enough.
        missing = math.ceil(1.1 * max(load.rate * (warm_up + limits.min_duration), limits.min_query_count)) + 1
        missing = min(missing, limits.max_query_count + math.ceil(load.rate * warm_up) + 1)
        gaps = np.full(missing, 1 / load.rate)
        if load.arrivals == "poisson":
            gaps = random.exponential(1 / load.rate, missing)
        times = np.concatenate([times, start + np.cumsum(gaps)])
    first = int(np.searchsorted(times, warm_up))  # The first query after the warm-up.
    by_minima = max(first + limits.min_query_count, int(np.searchsorted(times, warm_up + limits.min_duration)) + 1)
    by_maxima = min(first + limits.max_query_count, int(np.searchsorted(times, warm_up + limits.max_duration)))
    return times[: min(by_minima, by_maxima)]


def _is_enough(times: Times, limits: Limits, warm_up: float) -> bool:
    if not times.size:
        return False
    elapsed = float(times[-1]) - warm_up
    queries = int(np.count_nonzero(times >= warm_up))
    return limits.reached(elapsed, queries) or limits.exceeded(elapsed, queries)
