"""Collects the outcomes of all calls: counts, latencies, and which failures a killed worker explains."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from studies.soak.calls import KINDS
from studies.soak.load import Outcome

_BEFORE, _AFTER = 0.2, 1.0
"""Seconds around a kill in which a call that was in flight may fail with UNAVAILABLE: the clocks' reading, and what is
sent to sockets that the kernel has not closed yet."""
_KEPT = 20_000
"""Failures whose details are kept, so that a server that is gone fills no memory."""

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Kill:
    """A worker that was killed. server: its number; at: on the monotonic clock in seconds."""

    server: int
    at: float


@dataclass
class Tally:
    """What came of the calls, by kind and server."""

    ended: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    """The calls that ended as they should."""
    failures: list[Outcome] = field(default_factory=list)
    """The first ones that did not."""
    failed: int = 0
    longest_delay: float = 0.0
    """Seconds by which a client was late with a call, at most."""
    _planned: dict[tuple[int, int], "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    _seconds: dict[tuple[int, int], "array[float]"] = field(default_factory=lambda: defaultdict(lambda: array("d")))

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count calls."""
        for outcome in outcomes:
            key = outcome.kind, outcome.server
            self.longest_delay = max(self.longest_delay, outcome.delay)
            if outcome.error:
                self.failed += 1
                if len(self.failures) < _KEPT:
                    self.failures.append(outcome)
                continue
            self.ended[key] += 1
            if not KINDS[outcome.kind].fails:
                self._planned[key].append(outcome.planned)
                self._seconds[key].append(outcome.seconds)

    @property
    def calls(self) -> int:
        return self.failed + sum(self.ended.values())

    def latencies(self, kind: int, server: int, since: float = -np.inf, until: float = np.inf) -> Seconds:
        """The latencies of the calls that were planned in a time and answered, in seconds: [calls]."""
        planned = np.array(self._planned.get((kind, server), ()))
        return np.array(self._seconds.get((kind, server), ()))[(planned >= since) & (planned < until)]

    def explained_by(self, kills: Sequence[Kill]) -> tuple[list[list[Outcome]], list[Outcome]]:
        """The failures that each kill explains, and those that none explains.

        A kill explains UNAVAILABLE of a call to its server that was in flight when it happened, or was sent so shortly
        afterwards that its connection was still thought to be open.
        """
        explained: list[list[Outcome]] = [[] for _ in kills]
        unexplained = []
        for failure in self.failures:
            for number, kill in enumerate(kills):
                if failure.error == "UNAVAILABLE" and failure.server == kill.server and _in_flight(failure, kill.at):
                    explained[number].append(failure)
                    break
            else:
                unexplained.append(failure)
        return explained, unexplained


def _in_flight(call: Outcome, at: float) -> bool:
    return call.planned <= at + _AFTER and call.planned + call.seconds >= at - _BEFORE
