"""Which samples a cascade passes on, and what happens if a member is busy or broken."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.serving.server.errors import InferenceError, InvalidValuesError
from hangtag.serving.server.transport.native import NativeCall
from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.gate import Array, Held, Script
from tests.kit.live import outputs, request
from tests.kit.repository import Repository, Running, samples
from tests.kit.waiting import TIMEOUT, pass_time, until

CASCADE = 'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.9}\n'
Infer = Callable[..., Any]


@pytest.fixture
def cascade(repository: Repository) -> Repository:
    """The cascade ``both``. Its model ``fast`` returns the sample itself, and ``slow`` returns the sample plus 10."""
    for name, by in (("fast", 0), ("slow", 10)):
        repository.publish(name, model=onnx_models.shifted(by))
        repository.settings(name, "max_batch_size = 4\nmax_queue_size = 4\ninstances = 1")
    repository.route("both", CASCADE)
    return repository


@pytest.fixture
def infer() -> Iterator[Infer]:
    """Calls the cascade ``both``, and returns the call, which can be cancelled."""
    with ExitStack() as stack:

        def infer(running: Running, values: list[float], timeout: float = TIMEOUT) -> Any:
            channel = stack.enter_context(grpc.insecure_channel(running.server.address))
            stub = InferenceStub(channel)
            return stub.ModelInfer.future(request("both", **samples(values)), timeout=timeout)

        yield infer


def numbers(call: Any) -> list[float]:
    """The values in the first column of a call's answer."""
    return [round(float(value), 4) for value in outputs(call.result())["y"][:, 0]]


def test_only_samples_of_which_a_member_is_not_sure_go_on_to_the_next(repository: Repository) -> None:
    for name, by in (("first", 0), ("second", 0.3), ("third", 20)):
        repository.publish(name, model=onnx_models.shifted(by))
    repository.route("all", CASCADE.replace('"fast", "slow"', '"first", "second", "third"'))
    running = repository.start()
    answer = running.infer("all", [0.1, 0.95, 0.7, 0.92])
    np.testing.assert_allclose(answer["y"][:, 0], [20.1, 0.95, 1.0, 0.92], rtol=1e-6)
    assert answer.sample_stages == (3, 1, 2, 1)
    assert [(stage.model, stage.samples) for stage in answer.stages] == [("first", 4), ("second", 2), ("third", 1)]
    assert (running.infer("all", [0.95]).answered_by, answer.unsure) == (("first",), 0)
    state = running.state("all")
    assert {key: astuple(counts) for key, counts in state.route.stages.items()} == {
        (1, "first"): (2, 5),
        (2, "second"): (1, 2),
        (3, "third"): (1, 1),
    }
    assert (state.counters.success.count, state.counters.inference_count) == (2, 5)


def test_doubtful_samples_of_several_calls_share_a_batch(cascade: Repository) -> None:
    running = cascade.start()
    with running.occupied("slow"):
        calls = [running.infer_waiting("both", [place / 10, 0.95], "slow", place) for place in (1, 2)]
    assert [call.result()["y"][0, 0] for call in calls] == [np.float32(0.1), np.float32(0.2)]
    assert running.gates.batches["slow"] == [[9], [0.1, 0.2]]


@pytest.mark.parametrize("on_overload", ["answer", "refuse"])
def test_where_the_next_queue_is_full_the_answer_at_hand_is_given_or_the_call_refused(
    cascade: Repository, infer: Infer, on_overload: str
) -> None:
    cascade.route("both", f'{CASCADE}on_overload = "{on_overload}"')
    running = cascade.start()
    with running.occupied("slow", queued=4):
        call = infer(running, [0.95, 0.5])
        if on_overload == "answer":
            assert numbers(call) == [0.95, 0.5]
            assert dict(call.trailing_metadata())["hangtag-unsure"] == "1"
        else:
            assert call.exception().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.state("both").route.low_confidence == (on_overload == "answer")


def in_a_second(x: Array) -> Array:
    pass_time(1)
    return x


@pytest.mark.parametrize("on_overload", ["answer", "refuse"])
def test_one_deadline_holds_for_all_stages(cascade: Repository, infer: Infer, on_overload: str) -> None:
    """Because the server has measured the second member, it knows that this member cannot answer in time."""
    cascade.route("both", f'{CASCADE}on_overload = "{on_overload}"')
    running = cascade.start()
    running.gates.play(slow=in_a_second)
    running.infer("slow", [1])
    call = infer(running, [0.5], timeout=0.7)
    if on_overload == "answer":
        assert numbers(call) == [0.5]
        assert dict(call.trailing_metadata())["hangtag-unsure"] == "1"
    else:
        assert call.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "an answer needs about" in call.exception().details()
    assert running.gates.batches["slow"] == [[1]]


def test_a_cancelled_call_ends_at_the_stage_that_it_is_in(cascade: Repository, infer: Infer) -> None:
    first, second = Held(0.5), Held()
    running = cascade.start()
    running.gates.play(fast=first, slow=second)
    other = running.infer_later("slow", [9])
    second.wait()
    queued = infer(running, [0.1])
    until(lambda: running.state("slow").queued == 1)
    queued.cancel()
    until(lambda: running.state("slow").queued == 0)
    computed = infer(running, [0.5])
    first.wait()
    computed.cancel()
    until(lambda: failures(running) == {"CANCELLED": 2})
    first.release()
    second.release()
    other.result()
    assert numbers(infer(running, [0.2])) == [0.2]
    assert running.gates.batches == {"fast": [[0.1], [0.5], [0.2]], "slow": [[9], [0.2]]}


def failures(running: Running) -> dict[str, int]:
    """The number of failed calls to the cascade, for each status code."""
    return {code: counts.count for (name, _, code), counts in running.server.state().failures.items() if name == "both"}


def broken(_: Array) -> Array:
    raise InferenceError("made up")


def refuse(_: Array) -> Array:
    raise InvalidValuesError("made up")


@pytest.mark.parametrize("how", ["the first member is full", "the next member is full", "cancelled", "refused"])
def test_no_call_that_fails_stays_in_memory(cascade: Repository, infer: Infer, how: str) -> None:
    cascade.route("both", f'{CASCADE}on_overload = "refuse"')
    running = cascade.start(transport="native")
    gc.collect()
    gc.disable()  # only a garbage collection would free a reference cycle
    try:
        if how == "refused":
            running.gates.play(fast=refuse)
            assert infer(running, [1]).exception()
        else:
            with running.occupied("slow" if "next" in how else "fast", queued=3 if how == "cancelled" else 4):
                call = infer(running, [0.5])
                if how == "cancelled":
                    until(lambda: running.state("fast").queued == 4)
                    call.cancel()
                until(lambda: sum(failures(running).values()) == 1)
        until(lambda: not [each for each in gc.get_objects() if isinstance(each, NativeCall)])
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("script", "message"), [(broken, "made up"), (lambda x: np.zeros((len(x), 3), np.float32), "cannot be joined")]
)
def test_an_error_of_a_later_member_and_an_answer_of_another_shape_are_the_calls_error(
    cascade: Repository, infer: Infer, script: Script, message: str
) -> None:
    running = cascade.start()
    running.gates.play(slow=script)
    error = infer(running, [0.5]).exception()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert message in error.details()
    assert failures(running) == {"INTERNAL": 1}
    assert running.state("both").counters.fail.count == 1
    assert numbers(infer(running, [0.95])) == [0.95]


@pytest.mark.parametrize("same_signature", [True, False])
def test_a_member_that_is_replaced_meanwhile_is_answered_for_by_its_successor_if_it_takes_the_same(
    cascade: Repository, infer: Infer, same_signature: bool
) -> None:
    held = Held(0.5)
    running = cascade.start("poll")
    running.gates.play(fast=held)
    call = infer(running, [0.5])
    held.wait()
    cascade.publish("slow", 2, onnx_models.shifted(20) if same_signature else onnx_models.gather())
    with structlog.testing.capture_logs() as log:
        running.server.control.poll()
        until(lambda: [line for line in log if line["event"] == "model retired"])
    held.release()
    if same_signature:
        assert numbers(call) == [20.5]
    else:
        assert call.exception().code() is grpc.StatusCode.UNAVAILABLE


def test_a_call_under_way_goes_on_to_its_next_member_while_the_server_stops(cascade: Repository, infer: Infer) -> None:
    held = Held(0.5)
    running = cascade.start()
    running.gates.play(fast=held)
    call = infer(running, [0.5])
    held.wait()
    stop = running.in_thread(lambda: running.server.stop(TIMEOUT))
    until(lambda: not running.server.ready)
    held.release()
    assert numbers(call) == [10.5]
    stop.result()


@pytest.mark.parametrize("members", ['"both", "other"', '"other", "both"'])
def test_a_cascade_within_a_cascade_names_the_models_that_answered_and_counts_what_they_were_not_sure_of(
    cascade: Repository, members: str
) -> None:
    cascade.publish("other", model=onnx_models.shifted(30))
    cascade.route("outer", f'cascade = [{members}]\naccept = {{output = "y", at_least = 0.5}}')
    running = cascade.start()
    answer = running.infer("outer", [0.95, 0.8, 0.1])
    inner_first = members.startswith('"both')
    assert answer.answered_by == (("fast", "slow") if inner_first else ("other",))
    running.gates.play(other=lambda x: x + np.float32(0.3 if inner_first else 0))
    with running.occupied("slow", queued=4):
        # The inner cascade answers two samples, either the first two or the last two, so at most two count as unsure.
        assert running.infer("outer", [0.95, 0.6, 0.1, 0.2]).unsure == 2
