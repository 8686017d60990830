"""A shadow: its copies never change what callers get, and are compared, dropped or counted as failed."""

import math

import numpy as np
import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes import shadow
from hangtag.serving.server.engine.routes.route_file import Member, ShadowSettings, SplitSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import InferenceError, UnavailableError
from hangtag.serving.server.telemetry.route_statistics import RouteCounts, ShadowCounts
from tests.serving.server.engine.routes.parts import (
    FP32,
    answers,
    counts,
    echo,
    engine_with,
    execute_all,
    fast,
    model,
    route,
    shadowed,
)
from tests.serving.server.parts import Caller, FakeRuntime, Outputs, rows


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are handed over when a test says so: after an answer or by `execute_with_copies`."""
    monkeypatch.setattr(shadow.Shadow, "_start_timer", lambda _self: None)


def by_hand(engine: Engine, **limits: float) -> ServedRoute:
    """A shadowed route whose copies need no rest."""
    return shadowed(engine, shadow_share_of_time=math.inf, **limits)


def execute_with_copies(both: ServedRoute, *models: ServedModel) -> None:
    """Compute what is queued and all copies."""
    assert both._shadow is not None
    execute_all(*models)
    while both._shadow._waiting:
        both._shadow.hand_over()
        execute_all(*models)


def swapped(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Outputs:
    """As echo(10), with the columns exchanged for samples below 0.5: then the most probable label differs."""
    outputs = echo(10)(x)["y"]
    return {"y": np.where(x[:, :1] < 0.5, outputs[:, ::-1], outputs)}


def test_a_copy_is_compared_after_the_caller_has_its_answer() -> None:
    first, other = fast(), model("other", swapped)
    both = by_hand(engine_with(first, other))
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
    both = by_hand(engine_with(first, other), share=0.25)
    for _ in range(400):
        both.submit(rows(0.9), FP32, Caller())
        execute_all(first, other)
    assert 50 < counts(both).compared < 150  # fewer or more have a chance of 1 in 1,000,000


def copied(other: ServedModel) -> list[list[float]]:
    """What each batch of the shadow's model was computed from."""
    runtime = other.runtime
    assert isinstance(runtime, FakeRuntime)
    return [[round(float(value), 3) for value in batch[:, 0]] for batch in runtime.batches]


@pytest.mark.parametrize("busy", ["fast", "other"])
@pytest.mark.parametrize("computes", [False, True], ids=["queued", "computed"])
def test_a_copy_waits_while_requests_wait_or_are_computed(busy: str, computes: bool) -> None:
    models = {name: model(name, echo(10), ServerConfig(instances=2)) for name in ("fast", "other")}
    both = by_hand(engine_with(*models.values()))
    caller = Caller()
    both.submit(rows(0.9), FP32, caller)
    batch = models["fast"].batcher.take(wait=False)
    models[busy].submit(rows(0.5), FP32, Caller())
    others = models[busy].batcher.take(wait=False) if computes else []
    models["fast"].execute(batch)
    assert answers(caller.answer) == [10.9]
    assert len(models["other"].batcher) == (busy == "other" and not computes), "the copy was handed over"
    if computes:
        models[busy].execute(others)
    execute_all(*models.values())
    assert counts(both) == ShadowCounts()
    both.submit(rows(0.8), FP32, Caller())
    execute_with_copies(both, *models.values())
    assert counts(both)[:3] == (2, 0, 0)
    assert copied(models["other"])[-2:] == [[0.9], [0.8]]


def test_copies_go_on_where_fewer_than_half_of_the_instances_compute() -> None:
    first, other = fast(ServerConfig(instances=3, max_batch_size=1)), model("other", echo(10))
    both = by_hand(engine_with(first, other))
    batches = []
    for _ in range(3):
        both.submit(rows(0.9), FP32, Caller())
        batches.append(first.batcher.take(wait=False))
    first.execute(batches[0])
    assert len(other.batcher) == 0
    first.execute(batches[1])
    assert len(other.batcher) == 1
    first.execute(batches[2])


def test_a_copy_waits_until_every_caller_of_its_batch_has_an_answer() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other))
    handed_over: list[int] = []
    for _ in range(3):
        both.submit(rows(0.9), FP32, lambda _result: handed_over.append(len(other.batcher)))
    execute_all(first)
    assert handed_over == [0, 0, 0]
    assert len(other.batcher) == 1


def test_of_too_many_waiting_copies_the_oldest_is_dropped() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other), max_shadow_copies=2)
    callers = [Caller() for _ in range(5)]
    for number, caller in enumerate(callers):
        both.submit(rows(0.9 + number / 100), FP32, caller)
    execute_all(first)
    assert [answers(caller.answer) for caller in callers] == [[10.9], [10.91], [10.92], [10.93], [10.94]]
    assert counts(both).skipped == 3
    execute_with_copies(both, other)
    assert counts(both)[:3] == (2, 3, 0)
    assert copied(other) == [[0.93], [0.94]]


@pytest.mark.parametrize(
    ("seconds", "batches"),
    [(math.inf, [[0.0], [0.1, 0.2], [0.3, 0.4, 0.5], [0.6, 0.7]]), (-1.0, [[number / 10] for number in range(8)])],
    ids=["fast enough", "too slow"],
)
def test_copies_are_handed_over_together_while_that_is_fast(seconds: float, batches: list[list[float]]) -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other), shadow_batch_seconds=seconds)
    for number in range(8):
        both.submit(rows(number / 10), FP32, Caller())
    execute_with_copies(both, first, other)
    assert copied(other) == batches
    assert counts(both)[:3] == (8, 0, 0)


def test_fewer_copies_are_handed_over_together_once_that_is_slow() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other), shadow_batch_seconds=math.inf)
    for _ in range(8):
        both.submit(rows(0.9), FP32, Caller())
        execute_all(first, other)
    assert both._shadow is not None
    both._shadow._limits = Limits(shadow_batch_seconds=-1, shadow_share_of_time=math.inf)
    for _ in range(8):
        both.submit(rows(0.9), FP32, Caller())
    execute_with_copies(both, first, other)
    assert [len(batch) for batch in copied(other)[8:]] == [8]
    for _ in range(7):
        both.submit(rows(0.9), FP32, Caller())
    execute_with_copies(both, first, other)
    assert [len(batch) for batch in copied(other)[9:]] == [4, 2, 1]


@pytest.mark.parametrize("shadow_name", ["other", "route of other"])
def test_copies_are_never_computed_with_more_threads(shadow_name: str) -> None:
    """Each comes while nothing else is computed, as the requests of a lone client do."""
    first, other = fast(), model("other", echo(10))
    engine = engine_with(first, other)
    engine._table["route of other"] = {"1": route(engine, SplitSettings((Member("other"),), (100.0,)))}
    limits = Limits(shadow_share_of_time=math.inf)
    settings = SplitSettings((Member("fast"),), (100.0,), shadow=ShadowSettings(Member(shadow_name), 1.0))
    both = route(engine, settings, limits)
    for _ in range(40):
        both.submit(rows(0.9), FP32, Caller())
        execute_all(first, other)
    assert len(copied(other)) == 40
    for each, alone in ((first, True), (other, False)):
        assert isinstance(each.runtime, FakeRuntime)
        assert any(each.runtime.alone) == alone


def test_a_route_that_is_replaced_drops_the_copies_that_wait() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other))
    for _ in range(3):
        both.submit(rows(0.9), FP32, Caller())
    execute_all(first)
    caller = Caller()
    both.submit(rows(0.8), FP32, caller)
    both.close()
    assert counts(both).skipped == 2
    execute_all(first, other)
    assert answers(caller.answer) == [10.8]
    assert counts(both)[:3] == (1, 3, 0)


def broken(_x: object) -> Outputs:
    raise InferenceError("made up")


@pytest.mark.parametrize("fault", ["it fails", "it is closed", "it is gone"])
def test_a_shadow_that_fails_or_is_gone_is_counted_and_its_caller_has_an_answer(fault: str) -> None:
    first, other = fast(), model("other", broken)
    both = by_hand(engine_with(first) if fault == "it is gone" else engine_with(first, other))
    if fault == "it is closed":
        other.batcher.close()
    caller = Caller()
    both.submit(rows(0.9), FP32, caller)
    execute_all(first, other)
    assert answers(caller.answer) == [10.9]
    assert counts(both)[:3] == (0, 0, 1)


def test_a_shadow_limits_no_request_and_what_it_would_not_take_is_skipped() -> None:
    first, other = fast(ServerConfig(max_batch_size=4)), model("other", echo(10), ServerConfig(max_batch_size=2))
    both = by_hand(engine_with(first, other))
    assert both.max_batch_size == 4
    for values in ((0.9, 0.8, 0.7, 0.6), (0.5, 0.4)):
        caller = Caller()
        both.submit(rows(*values), FP32, caller)
        execute_with_copies(both, first, other)
        assert len(answers(caller.answer)) == len(values)
    assert counts(both)[:3] == (1, 1, 0)
    assert copied(other) == [[0.5, 0.4]]


def test_copies_that_wait_take_a_limited_number_of_bytes() -> None:
    one = rows(0.9)["x"].nbytes * 2  # its answer is as large
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other), max_shadow_bytes=3 * one)
    for values in ((0.1,), (0.2,), (0.3, 0.4), (0.5,), (0.6, 0.6, 0.6, 0.6)):
        both.submit(rows(*values), FP32, Caller())
    execute_all(first)
    # The fourth copy took the places of the first two, and the last one is larger than all that may wait.
    assert counts(both).skipped == 5
    both.submit(rows(0.7), FP32, Caller())
    execute_with_copies(both, first, other)
    assert copied(other) == [[0.7]]


def test_copies_that_wait_keep_no_whole_batch_in_memory() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other), max_shadow_copies=3)
    other.submit(rows(0.5), FP32, Caller())  # so that copies wait
    for number in range(16):
        both.submit(rows(number / 100), FP32, Caller())
    first.execute(first.batcher.take(wait=False))
    assert both._shadow is not None
    copies = both._shadow._waiting
    assert len(copies) == 3
    kept = {}
    for array in (array for copy in copies for array in (*copy.inputs.values(), *copy.outputs.values())):
        owner = array if array.base is None else array.base
        kept[id(owner)] = owner.nbytes
    assert sum(kept.values()) == both._shadow._bytes
    execute_with_copies(both, other)
    assert [value for batch in copied(other)[1:] for value in batch] == [0.13, 0.14, 0.15]
    assert counts(both)[:5] == (3, 13, 0, 3, 3)


def test_a_request_that_failed_is_not_copied() -> None:
    first, other = fast(), model("other", echo(10))
    both = by_hand(engine_with(first, other))
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
