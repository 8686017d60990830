"""Which samples a cascade passes on, what happens if a member is busy or broken, and how splits spread calls."""

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.serving.server.errors import InferenceError, InvalidValuesError
from hangtag.serving.server.transport.native.native_server import NativeCall
from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.gate import Array, Held, Script
from tests.kit.kinds import message_of
from tests.kit.live import outputs, request
from tests.kit.repository import Repository, Running, samples
from tests.kit.waiting import TIMEOUT, pass_time, until

CASCADE = 'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.9}\n'
Infer = Callable[..., Any]


@pytest.fixture
def cascade(repository: Repository) -> Repository:
    """The cascade ``both``: fast answers with the sample itself, and slow answers with the sample plus 10."""
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
    gc.disable()  # a reference cycle would stay until a collection
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


def test_a_request_that_one_member_would_not_take_is_refused(repository: Repository) -> None:
    def forbid_empty_axes(runtime: Any) -> None:
        if "full" in runtime.path.parts:
            runtime.no_empty_because = "it has LSTM"

    for name in ("small", "full"):
        repository.publish(name, model=onnx_models.free_axis())
    repository.settings("small", "max_batch_size = 2")
    repository.route("split", "split = {small = 50, full = 50}")
    running = repository.start(on_load=forbid_empty_axes)
    for shape, taken_by, reason in (((1, 0), "small", "it has LSTM"), ((3, 1), "full", "takes at most 2")):
        x = {"x": np.zeros(shape, np.float32)}
        assert len(running.client.infer(taken_by, x)["total"]) == shape[0]
        for _ in range(8):  # often enough to reach either member of the split
            assert reason in message_of(grpc.StatusCode.INVALID_ARGUMENT, running.client.infer, "split", x)


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
        # If the inner cascade comes first, it answers 0.95 and 0.6, so at most two are unsure; if not, 0.1 and 0.2.
        assert running.infer("outer", [0.95, 0.6, 0.1, 0.2]).unsure == 2


COUNT = 500
DEVIATIONS = 4.5
"""Only one binomial count in 100,000 is farther from its mean than this many standard deviations."""
STICKY = '\nsticky = "x-user-id"'


def chosen(running: Running, route: str, users: list[str]) -> Counter[tuple[str, str]]:
    """Call a route concurrently for each user ("" is no user). Return how many calls of a user each member answered."""
    with grpc.insecure_channel(running.server.address) as channel:
        infer = InferenceStub(channel).ModelInfer.future
        sent = request(route, **samples([0]))
        calls = [infer(sent, timeout=TIMEOUT, metadata=(("x-user-id", user),) if user else ()) for user in users]
        members = [str(dict(call.trailing_metadata())["hangtag-model"]) for call in calls]
    return Counter(zip(users, members, strict=True))


def require_share(counts: Counter[tuple[str, str]], member: str, share: float) -> None:
    """Require that the member answered its share of all calls, within the deviations of a binomial count."""
    total, count = counts.total(), sum(number for (_, each), number in counts.items() if each == member)
    assert abs(count - share * total) <= DEVIATIONS * math.sqrt(total * share * (1 - share))


def test_random_calls_and_similar_keys_are_spread_by_their_shares(repository: Repository) -> None:
    repository.publish("three")
    repository.route("inner", "split = {one = 90, two = 10}" + STICKY)
    repository.route("outer", "split = {three = 50, inner = 50}" + STICKY)
    running = repository.start("poll", transport="native", max_queue_size=COUNT)
    before: Counter[tuple[str, str]] = Counter()
    for pattern in ("", "{:08x}", "user{}@example.com"):
        before = chosen(running, "inner", [pattern.format(number) for number in range(COUNT)])
        require_share(before, "two", 0.1)
    # An inner split spreads the keys that it receives over all of its own shares.
    outer = chosen(running, "outer", [f"user-{number}" for number in range(2 * COUNT)])
    require_share(outer, "three", 0.5)
    require_share(Counter({key: count for key, count in outer.items() if key[1] != "three"}), "two", 0.1)
    # If the weights change, no more keys move than necessary.
    repository.route("inner", "split = {one = 80, two = 20}" + STICKY)
    running.poll()
    after = chosen(running, "inner", [user for user, _ in before])
    assert {key for key in before if key[1] == "two"} < {key for key in after if key[1] == "two"}
    require_share(after, "two", 0.2)
