"""The soak study: its load on a server of this process, and the figures that it reports."""

import asyncio
import dataclasses
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hangtag.serving.client import Classification, Label
from hangtag.serving.server.process.server import Server
from studies.results import Line
from studies.soak import load
from studies.soak.answers import ROUTE, Answers, WrongAnswerError
from studies.soak.calls import KINDS
from studies.soak.connections import Address, Connections
from studies.soak.goals import Verdict, goals
from studies.soak.load import Outcome, outcome_of
from studies.soak.run import SAMPLES
from studies.soak.servers import repository
from studies.soak.situation import Callers, Situation
from studies.soak.summary import slope
from studies.soak.tally import Kill, Tally
from tests.kit.certificates import Certificates
from tests.kit.forkserver import CONTEXT
from tests.kit.server import server
from tests.kit.shipped import MODELS
from tests.kit.waiting import until


def test_a_slope_and_its_interval_are_those_of_scipy() -> None:
    minutes = np.arange(0.0, 60.0)
    noise = np.random.default_rng(0).normal(0, 0.5, 60)
    noise[1::2] -= 1.0  # Neighbours differ, so that the interval is not widened.
    values = 100 + minutes / 60 * 3 + noise
    fitted = stats.linregress(minutes / 60, values)
    half = stats.t.ppf(0.975, 58) * fitted.stderr
    assert slope(minutes, values) == pytest.approx((fitted.slope, fitted.slope - half, fitted.slope + half))
    assert slope(minutes[:2], values[:2]) is None


def test_a_slopes_interval_holds_the_true_slope_also_where_memory_moves_in_steps() -> None:
    chance = np.random.default_rng(1)
    minutes = np.arange(0.0, 40.0)
    held = 0
    for _ in range(400):
        values = np.zeros(40)
        for at in range(1, 40):  # each minute's memory is half that of the minute before, and half chance
            values[at] = 0.5 * values[at - 1] + chance.normal()
        _fitted, low, high = slope(minutes, values) or (0.0, 0.0, 0.0)
        held += low <= 0 <= high
    assert 0.88 < held / 400 < 0.99


PROCESS: Line = {
    "lived_on": True,
    "mb_per_hour": (0.0, -1.0, 1.0),
    "fds_first_last_max": [5, 5, 9],
    "threads_first_last_max": [5, 5, 9],
}
CALLS: Line = {"compared": [1000, 1000], "first_p99_ms": 1.0, "last_p99_ms": 1.0}
REACHED: Line = {
    "longest_delay": 0.5,
    "unexplained": 0,
    "wrong": 0,
    "problems": [],
    "log_errors": [],
    "latency": {"infer": {"native": CALLS}},
    "processes": {"native": {"worker 0": PROCESS}},
}
"""The figures of a run that reached every goal."""


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        ({"longest_delay": 1.1}, 0),
        ({"unexplained": 1}, 1),
        ({"wrong": 1}, 2),
        ({"problems": ["version 3 of lstm does not serve"]}, 3),
        ({"log_errors": ["level=error"]}, 4),
        ({"latency": {"infer": {"native": CALLS | {"last_p99_ms": 1.3}}}}, 5),
        ({"processes": {"native": {"worker 0": PROCESS | {"fds_first_last_max": [5, 16, 16]}}}}, 7),
        ({"processes": {"native": {"worker 0": PROCESS | {"threads_first_last_max": [5, 8, 8]}}}}, 8),
    ],
)
def test_each_goal_is_judged_by_its_own_figure(figure: Line, missed: int) -> None:
    verdicts = [goal.judge(REACHED).reached for goal in goals(REACHED)]
    assert {*verdicts} == {"yes"}
    verdicts[missed] = "no"
    line = REACHED | figure
    assert [goal.judge(line).reached for goal in goals(line)] == verdicts


Fit = tuple[float, float, float] | None


@pytest.mark.parametrize(
    ("fits", "reached", "measured"),
    [
        ([(3.0, -4.0, 10.0)], "yes", "+3.0 (-4.0 to +10.0)"),
        ([(9.0, -1.0, 19.0)], "cannot tell", "+9.0 (-1.0 to +19.0)"),
        ([(-7.7, -134.1, 118.7)], "cannot tell", "-7.7 (-134.1 to +118.7)"),
        ([(20.0, 2.1, 37.9)], "no", "+20.0 (+2.1 to +37.9)"),
        # One process that surely grows counts, also where another one varies more.
        ([(9.0, -100.0, 118.0), (3.0, 2.5, 3.5)], "no", "+3.0 (+2.5 to +3.5)"),
        ([None], "cannot tell", "the run was too short"),
    ],
)
def test_memory_is_judged_by_the_ends_of_the_interval_and_not_by_the_slope(
    fits: list[Fit], reached: str, measured: str
) -> None:
    processes = {f"worker {number}": PROCESS | {"mb_per_hour": fit} for number, fit in enumerate(fits)}
    line = REACHED | {"processes": {"native": processes}}
    (memory,) = [goal for goal in goals(line) if goal.name.startswith("memory")]
    assert memory.judge(line) == Verdict(reached, measured)  # type: ignore[arg-type]


RIGHT = np.random.default_rng(0).random((8, 10), np.float32)
ANSWERS = Answers(
    np.zeros((8, 28, 28), np.uint8), {"lstm": {"probabilities": RIGHT}, ROUTE: {"probabilities": RIGHT[::-1]}}
)


def test_an_answer_of_other_images_or_of_fewer_or_more_is_wrong() -> None:
    ANSWERS.check("lstm", 2, 4, {"probabilities": RIGHT[2:6]})
    for answer in ({"probabilities": RIGHT[rows]} for rows in (slice(0), slice(2, 5), slice(2, 7), slice(3, 7))):
        with pytest.raises(WrongAnswerError, match="instead of"):
            ANSWERS.check("lstm", 2, 4, answer)
    with pytest.raises(WrongAnswerError, match="no output probabilities"):
        ANSWERS.check("lstm", 2, 4, {"logits": RIGHT[2:6]})


def test_a_classification_with_other_labels_than_the_likeliest_is_wrong() -> None:
    def classified(count: int, unsure: bool = False) -> Classification:
        best = np.argsort(RIGHT[5])[::-1][:count]
        labels = tuple(Label(str(index), float(RIGHT[5, index]), int(index)) for index in best)
        return Classification("lstm", "1", labels, 0.0, 0.0, 0.0, 1, unsure=unsure)

    ANSWERS.check_classification("lstm", 5, 3, classified(3))
    ANSWERS.check_classification(ROUTE, 2, 3, classified(3))  # a cascade's second member
    ANSWERS.check_classification(ROUTE, 5, 3, classified(3, unsure=True))  # its first one's labels
    twice = dataclasses.replace(classified(3), labels=classified(1).labels * 3)
    for wrong in (*map(classified, (0, 1, 2, 4, 10)), twice):
        with pytest.raises(WrongAnswerError, match="image 5"):
            ANSWERS.check_classification("lstm", 5, 3, wrong)


def test_a_caller_of_the_split_must_always_get_the_same_member() -> None:
    callers = Callers()
    for caller, member in (("anna", "lstm"), ("ben", "cnn"), ("anna", "lstm")):
        callers.check(caller, member)
    for caller, member in (("anna", "cnn"), ("carl", "")):
        with pytest.raises(WrongAnswerError):
            callers.check(caller, member)


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
    ours, others = tally.explained_by([Kill(0, 50.0), Kill(server=1, at=100.0)])
    assert (ours, others) == (([[], [outcome]], []) if explained else ([[], []], [outcome]))
    assert tally.explained_by([]) == ([], [outcome])


CALLS_A_SECOND = 100.0
SECONDS = 60.0


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with repository(MODELS) as folder:
        yield folder


def address(running: Server, ca: Path | None = None) -> Address:
    return Address("any", running.address, running.http_address, None if ca is None else str(ca))


@pytest.mark.slow
def test_all_kinds_of_calls_at_once_are_answered_rightly(models: Path, tmp_path: Path) -> None:
    """As in the study: one process makes calls of all kinds to two servers, and waits for no answer before the next."""
    certificates = Certificates(tmp_path)
    ours, theirs = CONTEXT.Pipe(duplex=False)
    stop = CONTEXT.Event()
    outcomes: list[Outcome] = []
    with (
        server(models, transport="native") as native,
        server(models, transport="grpc", **certificates.server()) as grpc_with_tls,
        ours,
    ):
        servers = [address(native), address(grpc_with_tls, certificates.ca())]
        caller = CONTEXT.Process(target=load.run, args=(servers, MODELS, SAMPLES, CALLS_A_SECOND, 0, theirs, stop))

        def every_kind_was_called() -> bool:
            assert ours.poll(SECONDS)
            outcomes.extend(ours.recv() or [])
            return len({(each.kind, each.server) for each in outcomes}) == len(KINDS) * len(servers)

        caller.start()
        theirs.close()  # so that reading ends with the process
        try:
            until(every_kind_was_called, 3 * SECONDS)
        finally:
            stop.set()
        with suppress(EOFError):
            while ours.poll(SECONDS):
                outcomes += ours.recv()
        caller.join(SECONDS)
    assert caller.exitcode == 0
    assert [(KINDS[each.kind].name, each.error, each.message) for each in outcomes if each.error] == []


@pytest.mark.slow
def test_a_wrong_answer_to_any_kind_of_call_is_seen(models: Path) -> None:
    answers = Answers.computed(MODELS, SAMPLES)
    spoiled = {
        model: {name: array + np.float32(0.01) for name, array in arrays.items()}
        for model, arrays in answers.outputs.items()
    }

    async def errors(at: Address) -> list[str]:
        async with AsyncExitStack() as stack:
            connections = await Connections.open(at, stack)
            situation = Situation(connections, replace(answers, outputs=spoiled), random.Random(0))
            return [(await outcome_of(kind, situation))[0] for kind in KINDS if not kind.fails]

    with server(models) as running:
        assert {*asyncio.run(errors(address(running)))} == {"wrong answer"}
