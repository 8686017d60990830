import threading

import numpy as np
import pytest
import structlog

from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import _ALONE_BATCHES, ServedModel
from hangtag.serving.server.errors import InferenceError, InvalidRequestError, InvalidValuesError, UnavailableError
from tests.serving.server.parts import Caller, FakeRuntime, Outputs, rows, served

FP32 = {"x": "FP32"}


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def model(runtime: FakeRuntime) -> ServedModel:
    return served(runtime)


def fail(_x: object) -> Outputs:
    raise InferenceError("the runtime's words")


def submit(model: ServedModel, *values: float) -> Caller:
    caller = Caller()
    model.submit(rows(*values), FP32, caller)
    return caller


def execute_all(model: ServedModel) -> None:
    while batch := model.batcher.take(wait=False):
        model.execute(batch)


def test_joined_requests_are_split_right(model: ServedModel, runtime: FakeRuntime) -> None:
    callers = [submit(model, 1), submit(model, 2, 3, 4), submit(model, 5, 6)]
    execute_all(model)
    assert [batch[:, 0].tolist() for batch in runtime.batches] == [[1, 2, 3, 4, 5, 6]]
    assert [caller.answer.outputs["y"][:, 0].tolist() for caller in callers] == [[2], [4, 6, 8], [10, 12]]
    assert {caller.answer.timings.batch_size for caller in callers} == {6}


def test_a_lone_request_is_not_copied(model: ServedModel, runtime: FakeRuntime) -> None:
    inputs = rows(1, 2)
    model.submit(inputs, FP32, Caller())
    execute_all(model)
    assert runtime.batches[0] is inputs["x"]


def test_the_threads_of_a_started_model_answer(runtime: FakeRuntime) -> None:
    model = served(runtime, ServerConfig(instances=3))
    assert model.instances == 3
    answered = threading.Semaphore(0)
    outcomes: dict[int, object] = {}

    def on_complete(number: int, outcome: object) -> None:
        outcomes[number] = outcome
        answered.release()

    model.start()
    for number in range(200):
        model.submit(rows(number), FP32, lambda outcome, number=number: on_complete(number, outcome))  # type: ignore[misc]
    assert all(answered.acquire(timeout=30) for _ in range(200))
    model.close()
    for number, outcome in outcomes.items():
        assert isinstance(outcome, InferenceResult)
        assert outcome.outputs["y"].tolist() == [[2 * number] * 2]


def test_close_computes_the_queue_and_then_refuses(model: ServedModel) -> None:
    callers = [submit(model, value) for value in range(100)]
    model.start()
    model.close()
    assert all(caller.answer for caller in callers)
    with pytest.raises(UnavailableError):
        submit(model, 1)


def test_closing_a_model_that_was_never_started_is_harmless(model: ServedModel) -> None:
    model.close()


def test_a_failing_batch_fails_alone_and_the_loop_survives(model: ServedModel, runtime: FakeRuntime) -> None:
    runtime.compute = fail
    victims = [submit(model, 1), submit(model, 2)]
    model.execute(model.batcher.take())
    assert all(isinstance(victim.outcome, InferenceError) for victim in victims)
    assert "the runtime's words" in str(victims[0].outcome)
    runtime.compute = lambda x: {"y": x * 2}
    survivor = submit(model, 3)
    model.start()
    model.close()
    assert survivor.answer.outputs["y"].tolist() == [[6, 6]]


@pytest.mark.parametrize("error", [InvalidValuesError, InferenceError, KeyError])
def test_a_request_that_makes_its_batch_fail_fails_alone(
    model: ServedModel, runtime: FakeRuntime, error: type[Exception]
) -> None:
    def fail_on_two(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Outputs:
        if 2 in x:
            raise error("made up")
        return {"y": x * 2}

    runtime.compute = fail_on_two
    callers = [submit(model, value) for value in range(4)]
    gone = Caller()
    cancel = model.submit(rows(9), FP32, gone)
    batch = model.batcher.take()
    cancel()
    with structlog.testing.capture_logs() as log:
        model.execute(batch)
    assert isinstance(callers.pop(2).outcome, error if issubclass(error, InferenceError) else InferenceError)
    assert [caller.answer.outputs["y"][0, 0] for caller in callers] == [0, 2, 6]
    assert [len(computed) for computed in runtime.batches] == [
        5,
        1,
        1,
        1,
        1,
    ]  # the cancelled request is not computed again
    assert model.batcher.computing == 0
    assert bool(log) is (error is not InvalidValuesError)  # invalid values are reported to their client alone
    assert model.statistics.snapshot().success.count == 3


def test_requests_that_fail_only_together_are_answered_and_the_log_says_so(
    model: ServedModel, runtime: FakeRuntime
) -> None:
    def alone_only(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Outputs:
        if len(x) > 1:
            raise InvalidValuesError("made up")
        return {"y": x * 2}

    runtime.compute = alone_only
    callers = [submit(model, value) for value in range(3)]
    with structlog.testing.capture_logs() as log:
        model.execute(model.batcher.take())
    assert [caller.answer.outputs["y"][0, 0] for caller in callers] == [0, 2, 4]
    assert [line["event"] for line in log] == ["batch failed"]


def test_any_other_exception_is_a_failed_batch_too(model: ServedModel, runtime: FakeRuntime) -> None:
    runtime.compute = lambda x: {"y": x[7:][0]}
    victim = submit(model, 1)
    execute_all(model)
    assert isinstance(victim.outcome, InferenceError)
    assert str(victim.outcome).startswith("the batch failed: ")


def test_a_callback_that_raises_does_not_hurt_its_neighbours(model: ServedModel) -> None:
    def broken(_outcome: object) -> None:
        raise RuntimeError("the caller's own")

    before = submit(model, 1)
    model.submit(rows(2), FP32, broken)
    after = submit(model, 3)
    model.start()
    model.close()
    assert before.answer.outputs["y"].tolist() == [[2, 2]]
    assert after.answer.outputs["y"].tolist() == [[6, 6]]


def test_a_callback_that_raises_on_a_failed_batch_does_not_hurt_its_neighbours(
    model: ServedModel, runtime: FakeRuntime
) -> None:
    def broken(_outcome: object) -> None:
        raise RuntimeError("the caller's own")

    runtime.compute = fail
    model.submit(rows(2), FP32, broken)
    after = submit(model, 3)
    execute_all(model)
    assert isinstance(after.outcome, InferenceError)


def test_no_request_gets_rows_of_another_if_an_output_does_not_follow_the_batch(
    model: ServedModel, runtime: FakeRuntime
) -> None:
    runtime.compute = lambda x: {"y": np.concatenate([x, x])}
    callers = [submit(model, 1), submit(model, 2)]
    with structlog.testing.capture_logs() as log:
        execute_all(model)
    assert "output 'y' has 4 rows for 2 samples" in str(log[0]["exc_info"])
    assert [caller.answer.outputs["y"][:, 0].tolist() for caller in callers] == [[1, 1], [2, 2]]  # each alone


def test_a_request_cancelled_while_it_is_computed_does_not_hurt_its_neighbours(
    model: ServedModel, runtime: FakeRuntime
) -> None:
    callers = [Caller(), Caller(), Caller()]
    cancels = [model.submit(rows(value), FP32, caller) for value, caller in enumerate(callers)]

    def cancelled_meanwhile(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Outputs:
        cancels[1]()
        return {"y": x * 2}

    runtime.compute = cancelled_meanwhile
    execute_all(model)
    assert [len(caller.outcomes) for caller in callers] == [1, 1, 1]
    assert [callers[0].answer.outputs["y"][0, 0], callers[2].answer.outputs["y"][0, 0]] == [0, 4]


def test_a_bad_request_is_refused_before_it_is_queued(model: ServedModel) -> None:
    with pytest.raises(InvalidRequestError):
        model.submit({"z": rows(1)["x"]}, {"z": "FP32"}, Caller())
    assert len(model.batcher) == 0


def test_a_model_without_a_batch_axis_computes_one_request_at_a_time() -> None:
    runtime = FakeRuntime(batched=False)
    model = served(runtime)
    callers = [submit(model, 1), submit(model, 2)]
    execute_all(model)
    assert [batch.tolist() for batch in runtime.batches] == [[[1, 1]], [[2, 2]]]
    assert [caller.answer.timings.batch_size for caller in callers] == [1, 1]


def test_statistics_count_requests_samples_and_batches(model: ServedModel, runtime: FakeRuntime) -> None:
    submit(model, 1), submit(model, 2, 3)
    execute_all(model)
    submit(model, 4)
    execute_all(model)
    runtime.compute = fail
    submit(model, 5), submit(model, 6)
    execute_all(model)
    counters = model.statistics.snapshot()
    assert (counters.inference_count, counters.execution_count) == (4, 2)
    assert counters.success.count == counters.queue.count == counters.compute_infer.count == 3
    assert sorted(counters.batches) == [1, 3]
    assert counters.batches[3].compute_infer.count == 1
    parts = (counters.queue, counters.compute_input, counters.compute_infer, counters.compute_output)
    assert counters.success.ns == sum(part.ns for part in parts)


def test_only_batches_that_come_alone_again_and_again_may_use_every_thread(
    model: ServedModel, runtime: FakeRuntime
) -> None:
    for _ in range(_ALONE_BATCHES + 1):
        submit(model, 1)
        execute_all(model)
    assert runtime.alone == [False] * (_ALONE_BATCHES - 1) + [True, True]
    submit(model, 2)
    batch = model.batcher.take()
    submit(model, 3)
    model.execute(batch)  # another waits
    execute_all(model)  # and now none does, but that was only a moment ago
    assert runtime.alone[-2:] == [False, False]


def test_with_another_batch_being_computed_no_batch_is_alone(runtime: FakeRuntime) -> None:
    model = served(runtime, ServerConfig(instances=2))
    for _ in range(_ALONE_BATCHES):
        submit(model, 1)
        execute_all(model)
    submit(model, 1)
    first = model.batcher.take()
    submit(model, 2)
    second = model.batcher.take()
    model.execute(first)
    model.execute(second)
    assert runtime.alone[-3:] == [True, False, False]
