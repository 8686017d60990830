"""A cascade's request: which samples go on, and how it ends."""

import gc
import time
import weakref
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Cancel
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)
from hangtag.serving.server.telemetry.route_statistics import RouteCounts
from hangtag.serving.signature import Signature, TensorSpec
from tests.serving.server.engine.routes.parts import (
    FP32,
    answers,
    cascade,
    echo,
    engine_with,
    execute_all,
    fast,
    model,
    route,
    slow,
)
from tests.serving.server.parts import Caller, rows


def test_only_the_samples_that_the_first_member_is_not_sure_of_go_on() -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    both.submit(rows(0.95, 0.5, 0.92, 0.1), FP32, caller)
    execute_all(first)
    assert caller.outcomes == []
    execute_all(second)
    assert answers(caller.answer) == [10.95, 20.5, 10.92, 20.1]
    assert [(stage.member, stage.rows) for stage in caller.answer.timings.stages] == [
        ("fast", (0, 1, 2, 3)),
        ("slow", (1, 3)),
    ]
    assert caller.answer.timings.unsure == 0
    assert {key: tuple(counts) for key, counts in both.state().route.stages.items()} == {
        (1, "fast"): (1, 4),
        (2, "slow"): (1, 2),
    }
    assert both.state().counters.inference_count == 4


def test_an_answer_that_the_first_member_is_sure_of_ends_the_request() -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    both.submit(rows(0.95), FP32, caller)
    execute_all(first)
    assert answers(caller.answer) == [10.95]
    assert len(second.batcher) == 0


def test_doubtful_samples_of_several_requests_share_a_batch() -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    callers = [Caller(), Caller()]
    for caller in callers:
        both.submit(rows(0.5, 0.95), FP32, caller)
    execute_all(first)
    batch = second.batcher.take(wait=False)
    assert len(batch) == 2
    second.execute(batch)
    assert [answers(caller.answer) for caller in callers] == [[20.5, 10.95]] * 2


def test_three_members_pass_on_what_each_is_not_sure_of() -> None:
    first, second = fast(), model("middle", echo(15, surer=0.3))
    third = slow()
    three = route(engine_with(first, second, third), cascade("fast", "middle", "slow"))
    caller = Caller()
    three.submit(rows(0.1, 0.95, 0.7), FP32, caller)
    execute_all(first, second, third)
    assert answers(caller.answer) == [20.1, 10.95, 15.7]
    assert [stage.rows for stage in caller.answer.timings.stages] == [(0, 1, 2), (0, 2), (0,)]


def full(on_overload: str) -> tuple[Caller, RouteCounts]:
    """A call to a cascade whose second member's queue is full, and the route's counters after it."""
    first, second = fast(), slow(ServerConfig(max_batch_size=4, max_queue_size=4))
    both = route(engine_with(first, second), cascade(on_overload=on_overload))
    for _ in range(4):
        second.submit(rows(1), FP32, Caller())
    caller = Caller()
    both.submit(rows(0.95, 0.5), FP32, caller)
    execute_all(first)
    return caller, both.state().route


def test_the_answer_at_hand_is_given_where_the_next_queue_is_full() -> None:
    caller, counts = full("answer")
    assert answers(caller.answer) == [10.95, 10.5]
    assert caller.answer.timings.unsure == 1
    assert [stage.member for stage in caller.answer.timings.stages] == ["fast"]
    assert counts.unsure == 1


def test_or_the_request_is_refused_where_the_route_says_so() -> None:
    caller, counts = full("refuse")
    assert isinstance(caller.outcome, QueueFullError)
    assert counts.unsure == 0


@pytest.mark.parametrize("on_overload", ["answer", "refuse"])
def test_one_deadline_holds_for_all_stages(on_overload: str) -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade(on_overload=on_overload))
    second.submit(rows(1), FP32, Caller())  # one is being computed, so that the time for another is known to be short
    batch = second.batcher.take(wait=False)
    second.batcher._service_time.observe(1, 5.0)
    caller = Caller()
    both.submit(rows(0.5), FP32, caller, time.monotonic() + 1)
    execute_all(first)
    if on_overload == "answer":
        assert answers(caller.answer) == [10.5]
        assert caller.answer.timings.unsure == 1
    else:
        assert isinstance(caller.outcome, DeadlineError)
    second.execute(batch)


def test_a_cancelled_request_ends_at_the_stage_that_it_is_in() -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    callers = [Caller(), Caller()]
    cancels = [both.submit(rows(0.5), FP32, caller) for caller in callers]
    cancels[0]()
    assert isinstance(callers[0].outcome, CancelledError)
    execute_all(first)
    cancels[1]()
    assert isinstance(callers[1].outcome, CancelledError)
    assert len(second.batcher) == 0
    for cancel in cancels:  # what has ended is not cancelled again
        cancel()


def test_a_request_that_is_cancelled_while_it_is_computed_does_not_go_on() -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    cancel = both.submit(rows(0.5), FP32, caller)
    batch = first.batcher.take(wait=False)
    cancel()
    first.execute(batch)
    assert isinstance(caller.outcome, CancelledError)
    assert len(second.batcher) == 0


def test_a_caller_that_leaves_between_two_stages_is_not_computed_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fast(), slow()
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    cancel = both.submit(rows(0.5), FP32, caller)
    submit = second.submit

    def submit_while_the_caller_leaves(*arguments: Any, **options: Any) -> Cancel:
        cancel()
        return submit(*arguments, **options)

    monkeypatch.setattr(second, "submit", submit_while_the_caller_leaves)
    execute_all(first)
    assert isinstance(caller.outcome, CancelledError)
    assert len(second.batcher) == 0


def test_an_error_of_a_later_member_is_the_requests() -> None:
    def broken(_x: object) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        raise InferenceError("made up")

    first, second = fast(), model("slow", broken)
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    both.submit(rows(0.5), FP32, caller)
    execute_all(first, second)
    assert isinstance(caller.outcome, InferenceError)


def test_answers_of_another_shape_than_the_signatures_are_an_error() -> None:
    first, second = fast(), model("slow", lambda x: {"y": np.zeros((len(x), 3), np.float32)})
    both = route(engine_with(first, second), cascade())
    caller = Caller()
    both.submit(rows(0.5), FP32, caller)
    execute_all(first, second)
    assert isinstance(caller.outcome, InferenceError)
    assert "cannot be joined" in str(caller.outcome)


def test_a_member_that_is_replaced_meanwhile_is_answered_for_by_its_successor() -> None:
    first, second, successor = fast(), slow(), slow(version=2)
    engine = engine_with(first, second)
    both = route(engine, cascade())
    callers = [Caller(), Caller()]
    both.submit(rows(0.5), FP32, callers[0])
    execute_all(first)
    engine._table["slow"] = {"2": successor}
    both.submit(rows(0.5), FP32, callers[1])
    execute_all(first)
    second.batcher.close()  # as the control does a moment after it was replaced
    late = Caller()
    both.submit(rows(0.5), FP32, late)
    execute_all(first, second, successor)
    assert [answers(caller.answer) for caller in callers] == [[20.5], [20.5]]
    assert answers(late.answer) == [40.5]


def test_a_successor_of_another_signature_gets_no_request_that_was_checked_for_the_one_before() -> None:
    first, second, successor = fast(), slow(), slow(version=2)
    successor.signature = Signature(second.signature.inputs, (TensorSpec("z", "FP32", (None, 2)),))
    engine = engine_with(first, second)
    both = route(engine, cascade())
    engine._table["slow"] = {"2": successor}
    second.batcher.close()
    caller = Caller()
    both.submit(rows(0.5), FP32, caller)
    execute_all(first)
    assert isinstance(caller.outcome, UnavailableError)
    assert len(successor.batcher) == 0


def test_requests_under_way_go_on_to_their_next_member_while_the_server_stops() -> None:
    first, second = fast(), slow()
    engine = engine_with(first, second)
    caller = Caller()
    route(engine, cascade()).submit(rows(0.5), FP32, caller)
    engine.stop_admission()
    execute_all(first, second)
    assert answers(caller.answer) == [20.5]


def test_an_empty_tensor_is_refused_if_any_member_must_not_get_it() -> None:
    def takes_any_length(each: ServedModel) -> ServedModel:
        each.signature = Signature((TensorSpec("x", "FP32", (None, None)),), each.signature.outputs)
        return each

    first, second = takes_any_length(fast(ServerConfig(max_batch_size=2))), takes_any_length(slow())
    both = route(engine_with(first, second), cascade())
    empty = {"x": np.zeros((1, 0), np.float32)}
    assert both.check(empty, FP32)[0] == 1
    second.runtime.no_empty_because = "made up"
    with pytest.raises(InvalidRequestError, match="made up"):
        both.check(empty, FP32)


def test_more_samples_than_the_smallest_member_takes_are_refused() -> None:
    first, second = fast(), slow(ServerConfig(max_batch_size=2))
    both = route(engine_with(first, second), cascade())
    assert both.max_batch_size == 2
    with pytest.raises(InvalidRequestError, match="3 samples in one request; the model takes at most 2"):
        both.submit(rows(1, 1, 1), FP32, Caller())


def test_a_request_that_has_ended_keeps_no_model_in_memory() -> None:
    class Call:
        """Refers to what cancels it; what completes it and its key refer to it, as to transports' calls."""

        def __call__(self, outcome: object) -> None:
            self.outcome = outcome

        def key(self, name: str) -> str:
            return ""

    first, second = fast(), model("slow", echo(20))
    both = route(engine_with(first, second), cascade())
    gc.collect()
    gc.disable()
    try:
        call = Call()
        call.cancel = both.submit(rows(0.5), FP32, call, key=call.key)  # type: ignore[attr-defined]
        execute_all(first, second)
        gone = weakref.ref(call)
        del call
        assert gone() is None
    finally:
        gc.enable()
