"""Which failures a killed worker explains."""

import numpy as np
import pytest

from studies.soak.calls import KINDS
from studies.soak.load import Outcome
from studies.soak.tally import Kill, Tally

KILL = Kill(server=1, at=100.0)


def failure(planned: float, seconds: float, *, server: int = 1, error: str = "UNAVAILABLE") -> Outcome:
    return Outcome(0, server, planned, 0.0, seconds, error)


@pytest.mark.parametrize(
    ("outcome", "explained"),
    [
        (failure(99.0, 1.01), True),
        (failure(100.5, 0.01), True),  # sent to a connection that was not known to be closed
        (failure(99.0, 0.5), False),  # it ended before
        (failure(101.5, 0.01), False),  # by then the other worker should have it
        (failure(99.0, 1.01, server=0), False),
        (failure(99.0, 1.01, error="INTERNAL"), False),
        (failure(99.0, 1.01, error="wrong answer"), False),
    ],
)
def test_a_kill_explains_unavailable_of_calls_in_flight_to_its_server(outcome: Outcome, explained: bool) -> None:
    tally = Tally()
    tally.add([outcome])
    ours, others = tally.explained_by([Kill(0, 50.0), KILL])
    assert (ours, others) == (([[], [outcome]], []) if explained else ([[], []], [outcome]))


def test_without_a_kill_nothing_is_explained() -> None:
    tally = Tally()
    tally.add([failure(1.0, 1.0)])
    assert tally.explained_by([]) == ([], [failure(1.0, 1.0)])


def test_calls_are_counted_and_only_answers_have_a_latency() -> None:
    refused = next(number for number, kind in enumerate(KINDS) if kind.fails)
    tally = Tally()
    tally.add(
        [
            Outcome(0, 0, 10.0, 0.2, 0.5),
            Outcome(0, 0, 20.0, 0.0, 0.7),
            Outcome(refused, 0, 10.0, 0.0, 0.1),
            failure(5.0, 9.0),
        ]
    )
    assert (tally.calls, tally.longest_delay) == (4, 0.2)
    assert dict(tally.ended) == {(0, 0): 2, (refused, 0): 1}
    assert tally.latencies(0, 0).tolist() == [0.5, 0.7]
    assert tally.latencies(0, 0, since=10.0, until=20.0).tolist() == [0.5]
    assert np.size(tally.latencies(refused, 0)) == 0
    assert np.size(tally.latencies(0, 1)) == 0
