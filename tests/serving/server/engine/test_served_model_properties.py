"""Under any interleaving of arrivals, cancellations, failures, closes and new versions, each caller gets one outcome.

If the outcome is a result, it is that of the caller's own request.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hangtag.serving.server.batching.request import InferenceResult, QueuedRequest
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import (
    CancelledError,
    InferenceError,
    InvalidValuesError,
    QueueFullError,
    UnavailableError,
)
from tests.serving.server.parts import Caller, FakeRuntime, Outputs, rows, served


class ModelMachine(RuleBasedStateMachine):
    """A model whose runtime doubles or fails; a rule of the machine computes each batch."""

    @initialize(size=st.integers(1, 5), instances=st.integers(1, 3))
    def start(self, size: int, instances: int) -> None:
        self.config = ServerConfig(max_batch_size=size, max_queue_size=size + 3, instances=instances)
        self.models: list[ServedModel] = []
        self.callers: dict[QueuedRequest, tuple[ServedModel, Caller, list[float]]] = {}
        self.gone: set[QueuedRequest] = set()
        self.doomed: set[QueuedRequest] = set()
        self.taken: list[tuple[ServedModel, list[QueuedRequest]]] = []
        self.next = 0.0
        self.deploy()

    @rule()
    def deploy(self) -> None:
        """Replace the model by a new version; the old one takes no more requests and drains."""
        for old in self.models:
            old.batcher.close()
        self.models.append(served(FakeRuntime(), self.config))

    @rule(samples=st.integers(1, 5), late=st.booleans())
    def arrive(self, samples: int, late: bool) -> None:
        model = (
            self.models[0] if late else self.models[-1]
        )  # a thread may submit after the model that it looked up was replaced
        values = [self.next + offset for offset in range(min(samples, self.config.max_batch_size))]
        self.next += len(values)
        caller = Caller()
        try:
            model.submit(rows(*values), {"x": "FP32"}, caller)
        except QueueFullError:
            assert len(model.batcher) == self.config.max_queue_size
        except UnavailableError:
            assert model is not self.models[-1] or self.closed
        else:
            self.callers[model.batcher._queue[-1]] = model, caller, values
            return
        assert caller.outcomes == []

    closed = False

    @rule()
    def close(self) -> None:
        self.models[-1].batcher.close()
        self.closed = True

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.callers)))
        model, caller, _ = self.callers[request]
        if not caller.outcomes:
            self.gone.add(request)
        model.batcher.cancel(request)

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        if batch := model.batcher.take(wait=False):
            assert model.batcher.computing <= self.config.instances
            self.taken.append((model, batch))

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), fault=st.sampled_from([None, None, "raises", "too few rows", "a bug", "bad values"]))
    def compute(self, data: st.DataObject, fault: str | None) -> None:
        model, batch = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        runtime = model.runtime
        assert isinstance(runtime, FakeRuntime)
        victims = {None: [], "too few rows": [], "bad values": batch[-1:]}.get(fault, batch)
        samples = sum(request.samples for request in batch)
        (poison,) = batch[-1].inputs["x"][-1:, 0]

        def compute(x: Any) -> Outputs:
            if len(batch) == 1:
                assert x is batch[0].inputs["x"]  # a lone request is not copied
            match fault:
                case "raises":
                    raise InferenceError("made up")
                case "a bug":
                    raise KeyError("made up")
                case "bad values" if poison in x:
                    raise InvalidValuesError("made up")
                case "too few rows" if len(batch) > 1 and len(x) == samples:
                    return {"y": x[1:] * 2}
            return {"y": x * 2}

        runtime.compute = compute
        model.execute(batch)
        self.doomed.update(request for request in victims if request not in self.gone)

    @invariant()
    def each_caller_has_exactly_its_own_outcome(self) -> None:
        for request, (_, caller, values) in self.callers.items():
            if request in self.gone:
                assert isinstance(caller.outcome, CancelledError)
            elif request in self.doomed:
                assert isinstance(caller.outcome, InferenceError)
            elif caller.outcomes:
                assert isinstance(caller.outcome, InferenceResult)
                np.testing.assert_array_equal(caller.answer.outputs["y"][:, 0], np.array(values) * 2)

    def teardown(self) -> None:
        if not hasattr(self, "models"):
            return
        for model in self.models:
            model.batcher.close()
        for model, batch in self.taken:
            model.runtime.compute = lambda x: {"y": x * 2}  # type: ignore[attr-defined]
            model.execute(batch)
        self.taken = []
        for model in self.models:
            model.runtime.compute = lambda x: {"y": x * 2}  # type: ignore[attr-defined]
            model.start()
            model.close()
            with pytest.raises(UnavailableError):
                model.submit(rows(1), {"x": "FP32"}, Caller())
        self.each_caller_has_exactly_its_own_outcome()
        assert all(len(caller.outcomes) == 1 for _, caller, _ in self.callers.values())


TestModel = ModelMachine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def raising(_: object) -> None:
    raise RuntimeError("the caller's own")


@pytest.mark.parametrize("error", [None, InferenceError("made up")])
def test_a_callback_that_raises_does_not_hurt_its_neighbours(error: Exception | None) -> None:
    runtime = FakeRuntime()
    model = served(runtime)
    callers = [Caller(), Caller()]
    for on_complete in (callers[0], raising, callers[1]):
        model.submit(rows(1), {"x": "FP32"}, on_complete)

    def compute(x: Any) -> Outputs:
        if error is not None:
            raise error
        return {"y": x}

    runtime.compute = compute
    model.execute(model.batcher.take())
    expected = InferenceResult if error is None else InferenceError
    assert all(isinstance(caller.outcome, expected) for caller in callers)
