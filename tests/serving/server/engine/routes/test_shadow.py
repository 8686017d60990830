"""A shadow: its copies never change what callers get, and are compared, skipped or counted as failed."""

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes import shadow
from hangtag.serving.server.engine.routes.route_file import Member, ShadowSettings, SplitSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.errors import InferenceError, UnavailableError
from hangtag.serving.server.telemetry.route_statistics import RouteCounts, ShadowCounts
from tests.serving.server.engine.routes.parts import FP32, answers, echo, engine_with, execute_all, fast, model, route
from tests.serving.server.parts import Caller, Outputs, rows


def shadowed(engine: Engine, share: float = 1.0) -> ServedRoute:
    return route(engine, SplitSettings((Member("fast"),), (100.0,), shadow=ShadowSettings(Member("other"), share)))


def counts(both: ServedRoute) -> ShadowCounts:
    result = both.state().route.shadow
    assert result is not None
    return result


def swapped(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Outputs:
    """As echo(10), with the columns exchanged for samples below 0.5: then the most probable label differs."""
    outputs = echo(10)(x)["y"]
    return {"y": np.where(x[:, :1] < 0.5, outputs[:, ::-1], outputs)}


def test_a_copy_is_compared_after_the_caller_has_its_answer() -> None:
    first, other = fast(), model("other", swapped)
    both = shadowed(engine_with(first, other))
    caller = Caller()
    both.submit(rows(0.2, 0.9, 0.8), FP32, caller)
    assert len(other.batcher) == 0
    execute_all(first)
    assert answers(caller.answer) == [10.2, 10.9, 10.8]
    assert counts(both) == ShadowCounts()
    execute_all(other)
    assert counts(both)[:5] == (1, 0, 0, 3, 2)
    assert counts(both).largest_difference == pytest.approx(10.2)
    assert len(caller.outcomes) == 1


def test_a_share_of_the_calls_is_copied() -> None:
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other), share=0.25)
    for _ in range(400):
        both.submit(rows(0.9), FP32, Caller())
        execute_all(first, other)
    assert 50 < counts(both).compared < 150  # fewer or more have a chance of 1 in 1,000,000


@pytest.mark.parametrize("waiting", ["fast", "other"])
def test_a_copy_is_skipped_while_requests_wait(waiting: str) -> None:
    models = {"fast": fast(), "other": model("other", echo(10))}
    both = shadowed(engine_with(*models.values()))
    caller = Caller()
    both.submit(rows(0.9), FP32, caller)
    batch = models["fast"].batcher.take(wait=False)
    models[waiting].submit(rows(0.5), FP32, Caller())
    models["fast"].execute(batch)
    assert answers(caller.answer) == [10.9]
    assert counts(both).skipped == 1


def test_copies_may_wait_for_each_other() -> None:
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    for _ in range(3):
        both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    assert len(other.batcher) == 3
    other.submit(rows(0.9), FP32, Caller())
    both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    assert counts(both).skipped == 1
    execute_all(other)
    assert counts(both)[:2] == (3, 1)


def test_only_so_many_copies_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "MAX_OPEN", 1)
    first, other = fast(ServerConfig(max_batch_size=1)), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    taken = []
    for _ in range(2):
        both.submit(rows(0.9), FP32, Caller())
        first.execute(first.batcher.take(wait=False))
        taken.append(other.batcher.take(wait=False))  # so that none waits, and one is under way
    assert counts(both).skipped == 1
    other.execute(taken[0])
    assert counts(both)[:3] == (1, 1, 0)


def broken(_x: object) -> Outputs:
    raise InferenceError("made up")


@pytest.mark.parametrize("fault", ["it fails", "it is closed", "it is gone"])
def test_a_shadow_that_fails_or_is_gone_is_counted_and_its_caller_has_an_answer(fault: str) -> None:
    first, other = fast(), model("other", broken)
    both = shadowed(engine_with(first) if fault == "it is gone" else engine_with(first, other))
    if fault == "it is closed":
        other.batcher.close()
    caller = Caller()
    both.submit(rows(0.9), FP32, caller)
    execute_all(first, other)
    assert answers(caller.answer) == [10.9]
    assert counts(both)[:3] == (0, 0, 1)


def test_a_request_that_failed_is_not_copied() -> None:
    first, other = fast(), model("other", echo(10))
    both = shadowed(engine_with(first, other))
    cancel = both.submit(rows(0.9), FP32, Caller())
    cancel()
    assert len(other.batcher) == 0
    first.batcher.close()
    with pytest.raises(UnavailableError):
        both.submit(rows(0.9), FP32, Caller())
    assert counts(both) == ShadowCounts()


def test_counters_of_two_processes_are_added() -> None:
    one = RouteCounts({}, ShadowCounts(1, 2, 3, 4, 5, 0.5))
    assert one.plus(RouteCounts({}, ShadowCounts(1, 1, 1, 1, 1, 0.7))).shadow == ShadowCounts(2, 3, 4, 5, 6, 0.7)
    assert one.plus(RouteCounts()).shadow == one.shadow
    assert one.plus(RouteCounts(unsure=2)).plus(RouteCounts(unsure=3)).unsure == 5
    assert one.plus(RouteCounts(expected_sent_on=0.0)).expected_sent_on == 0
    assert one.plus(one).unsure is None
