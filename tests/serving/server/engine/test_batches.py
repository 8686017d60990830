"""Which batches may use every thread, and what the log says of those that fail."""

import pytest
import structlog.testing

from hangtag.serving.server.errors import InvalidValuesError
from tests.serving.server.engine.running import Start
from tests.serving.server.engine.scripted import Array, Script, echo

BATCHES = 16
"""After so many in a row that come alone, a batch may be computed by every thread."""


def test_only_batches_that_come_alone_again_and_again_may_use_every_thread(start: Start) -> None:
    running = start(instances=1, max_batch_size=1)
    running.scripts.play(one=echo)
    for _ in range(BATCHES + 1):
        running.infer("one", [1])
    assert running.scripts.alone["one"] == [False] * (BATCHES - 1) + [True, True]
    with running.occupied("one", queued=2):
        assert running.scripts.alone["one"][-1]
    # One that another waits for, and one that comes alone, but only a moment after that.
    assert running.scripts.alone["one"][-2:] == [False, False]


def test_with_another_batch_being_computed_no_batch_is_alone(start: Start) -> None:
    running = start(instances=2)
    running.scripts.play(one=echo)
    for _ in range(BATCHES):
        running.infer("one", [1])
    with running.occupied("one"):
        running.infer("one", [1])
    running.infer("one", [1])
    assert running.scripts.alone["one"][-4:] == [True, True, False, False]


def refuse_several(x: Array) -> Array:
    if len(x) > 1:
        raise InvalidValuesError("made up")
    return x


def refuse_two(x: Array) -> Array:
    if 2 in x:
        raise InvalidValuesError("made up")
    return x


@pytest.mark.parametrize(
    ("script", "answers", "logged"),
    [(refuse_several, [1, 2, 3], [("batch failed", "one", 3)]), (refuse_two, [1, None, 3], [])],
)
def test_a_batch_that_fails_is_computed_one_by_one_and_logged_where_no_client_is_at_fault(
    start: Start, script: Script, answers: list[float | None], logged: list[tuple[str, str, int]]
) -> None:
    running = start(instances=1)
    with structlog.testing.capture_logs() as log:
        with running.occupied("one"):
            calls = [running.infer_waiting("one", [value], "one", value) for value in (1, 2, 3)]
            running.scripts.play(one=script)
        outcomes = [None if call.exception() else call.result()["y"][0, 0] for call in calls]
    assert outcomes == answers
    assert running.scripts.batches["one"] == [[9], [1, 2, 3], [1], [2], [3]]
    assert [(line["event"], line["model"], line["requests"]) for line in log] == logged
