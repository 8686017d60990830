"""When each query of an open loop is due, and the seeds: pure arithmetic, known before the first query leaves."""

import math
import zlib

import numpy as np
import numpy.typing as npt

from hangtag.serving.loadtest.plan.load import Limits, OpenLoop

Times = npt.NDArray[np.float64]


def random_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A random generator of its own for each purpose, so that a change to one never shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *index])


def planned_send_times(load: OpenLoop, limits: Limits, warm_up: float, random: np.random.Generator) -> Times:
    """The planned send times of one block, in seconds from its start, ascending, the warm-up's included.

    A Poisson process has independent, exponentially distributed gaps with mean 1 / rate; constant arrivals have equal
    ones. The last query is the first that fulfils both minima of `limits`, counted from the end of the warm-up, or
    the last before a maximum is exceeded.
    """
    times = np.empty(0)
    while not _is_enough(times, limits, warm_up):
        start = times[-1] if times.size else 0.0
        # A tenth more than the mean: one draw is nearly always enough.
        missing = math.ceil(1.1 * max(load.rate * (warm_up + limits.min_duration), limits.min_query_count)) + 1
        missing = min(missing, limits.max_query_count + math.ceil(load.rate * warm_up) + 1)
        gaps = np.full(missing, 1 / load.rate)
        if load.arrivals == "poisson":
            gaps = random.exponential(1 / load.rate, missing)
        times = np.concatenate([times, start + np.cumsum(gaps)])
    warm = int(np.searchsorted(times, warm_up))
    by_minima = max(warm + limits.min_query_count, int(np.searchsorted(times, warm_up + limits.min_duration)) + 1)
    by_maxima = min(warm + limits.max_query_count, int(np.searchsorted(times, warm_up + limits.max_duration)))
    return times[: min(by_minima, by_maxima)]


def _is_enough(times: Times, limits: Limits, warm_up: float) -> bool:
    if not times.size:
        return False
    elapsed = float(times[-1]) - warm_up
    queries = int(np.count_nonzero(times >= warm_up))
    return limits.reached(elapsed, queries) or limits.exceeded(elapsed, queries)
