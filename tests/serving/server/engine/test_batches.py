"""Which batches may use every thread, and what the log says of those that fail."""

from concurrent.futures import Future

import numpy as np
import structlog.testing

from hangtag import Outputs
from hangtag.serving.server.errors import InvalidValuesError
from tests.kit.waiting import until
from tests.serving.server.engine.running import Running, Start
from tests.serving.server.engine.scripted import Array, Held, Scripts

BATCHES = 16
"""After so many in a row that come alone, a batch may be computed by every thread."""


def queue(running: Running, name: str, values: list[float]) -> list["Future[Outputs]"]:
    """Send requests that wait in the queue, one after another."""
    calls = []
    for place, value in enumerate(values, start=1):
        calls.append(running.infer_later(name, [value]))
        until(lambda place=place: running.state(name).queued == place)  # type: ignore[misc]
    return calls


def test_only_batches_that_come_alone_again_and_again_may_use_every_thread(start: Start) -> None:
    held = Held()
    scripts = Scripts()
    running = start(runtimes=scripts, instances=1, max_batch_size=1)
    scripts.play(one=held)
    for _ in range(BATCHES + 1):
        running.infer("one", [1])
    assert scripts.alone["one"] == [False] * (BATCHES - 1) + [True, True]
    first = running.infer_later("one", [9])
    held.wait()
    others = queue(running, "one", [1, 1])
    held.release()
    assert [len(each.result()["y"]) for each in (first, *others)] == [1, 1, 1]
    # One that another waits for, and one that comes alone, but only a moment after that.
    assert scripts.alone["one"][-3:] == [True, False, False]


def test_with_another_batch_being_computed_no_batch_is_alone(start: Start) -> None:
    held = Held()
    scripts = Scripts()
    running = start(runtimes=scripts, instances=2)
    scripts.play(one=held)
    for _ in range(BATCHES):
        running.infer("one", [1])
    first = running.infer_later("one", [9])
    held.wait()
    running.infer("one", [1])
    held.release()
    first.result()
    running.infer("one", [1])
    assert scripts.alone["one"][-4:] == [True, True, False, False]


def test_requests_that_fail_only_together_are_answered_and_the_log_says_so(start: Start) -> None:
    held = Held()

    def alone_only(x: Array) -> Array:
        if len(x) > 1:
            raise InvalidValuesError("made up")
        return held(x)

    scripts = Scripts()
    running = start(runtimes=scripts, instances=1)
    scripts.play(one=alone_only)
    with structlog.testing.capture_logs() as log:
        calls = [running.infer_later("one", [9])]
        held.wait()
        calls += queue(running, "one", [1, 2, 3])
        held.release()
        assert [call.result()["y"][0, 0] for call in calls] == [9, 1, 2, 3]
    assert scripts.batches["one"] == [[9], [1, 2, 3], [1], [2], [3]]
    assert [(line["event"], line["model"], line["requests"]) for line in log] == [("batch failed", "one", 3)]


def test_invalid_values_fail_their_own_request_and_are_no_fault_that_the_log_reports(start: Start) -> None:
    held = Held()

    def refuse_two(x: Array) -> Array:
        if 2 in x:
            raise InvalidValuesError("made up")
        return held(x)

    scripts = Scripts()
    running = start(runtimes=scripts, instances=1)
    scripts.play(one=refuse_two)
    with structlog.testing.capture_logs() as log:
        first = running.infer_later("one", [9])
        held.wait()
        calls = queue(running, "one", [1, 2, 3])
        held.release()
        outcomes = [call.exception() or call.result()["y"][0, 0] for call in (first, *calls)]
    assert "made up" in str(outcomes.pop(2))
    np.testing.assert_array_equal(outcomes, [9, 1, 3])
    assert log == []
