"""Each request to a cascade gets exactly one outcome, and each of its samples the answer of the right member.

So under any interleaving of arrivals, batches, cancellations, full queues and new versions of a member.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Cancel
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import CancelledError, QueueFullError, UnavailableError
from tests.serving.server.engine.routes.parts import FP32, SURE, answers, cascade, engine_with, fast, route, slow
from tests.serving.server.parts import Caller, rows


class CascadeMachine(RuleBasedStateMachine):
    """Rules compute the members' batches by hand."""

    @initialize(size=st.integers(1, 4), on_overload=st.sampled_from(["answer", "refuse"]))
    def start(self, size: int, on_overload: str) -> None:
        self.config = ServerConfig(max_batch_size=size, max_queue_size=size + 2)
        self.models = [fast(self.config), slow(self.config)]
        self.engine = engine_with(*self.models)
        self.both = route(self.engine, cascade(on_overload=on_overload))
        self.on_overload = on_overload
        self.requests: list[tuple[Caller, Cancel, list[float]]] = []
        self.gone: set[int] = set()

    @rule(values=st.lists(st.sampled_from([0.1, 0.5, 0.95, 0.99]), min_size=1, max_size=4))
    def arrive(self, values: list[float]) -> None:
        values = values[: self.config.max_batch_size]
        caller = Caller()
        try:
            cancel = self.both.submit(rows(*values), FP32, caller)
        except QueueFullError:
            assert len(self.models[0].batcher) == self.config.max_queue_size
            assert caller.outcomes == []
        else:
            self.requests.append((caller, cancel, values))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.requests) - 1))
        caller, cancel, _ = self.requests[number]
        if not caller.outcomes:
            self.gone.add(number)
        cancel()

    @rule(data=st.data(), meanwhile=st.booleans())
    def compute(self, data: st.DataObject, meanwhile: bool) -> None:
        """A member computes a batch, and meanwhile a caller may leave."""
        model = data.draw(st.sampled_from(self.models))
        batch = model.batcher.take(wait=False)
        if batch:
            if meanwhile and self.requests:
                self.cancel(data)
            model.execute(batch)

    @rule()
    def replace(self) -> None:
        """A new version of the second member; the old one is closed, and computes what it has."""
        old = self.models[-1]
        new = slow(self.config, version=int(old.version) + 1)
        self.engine._table["slow"] = {new.version: new}
        old.batcher.close()
        self.models.append(new)

    @invariant()
    def every_outcome_is_the_requests_own(self) -> None:
        for number, (caller, _, values) in enumerate(self.requests):
            assert len(caller.outcomes) <= 1
            for outcome in caller.outcomes:
                if not isinstance(outcome, InferenceResult):
                    assert isinstance(outcome, CancelledError | QueueFullError | UnavailableError)
                    assert number in self.gone or not isinstance(outcome, CancelledError)
                    assert self.on_overload == "refuse" or not isinstance(outcome, QueueFullError)
                    continue
                unsure = outcome.timings.unsure
                assert unsure == 0 or self.on_overload == "answer"
                for value, answer in zip(values, answers(outcome), strict=True):
                    offset = round(answer - value)
                    if value >= SURE or unsure:
                        assert offset == 10
                    else:
                        assert offset in [20 * int(model.version) for model in self.models[1:]]

    def teardown(self) -> None:
        if not hasattr(self, "models"):
            return
        while any(len(model.batcher) for model in self.models):
            for model in self.models:
                execute(model)
        for caller, _, _ in self.requests:
            assert len(caller.outcomes) == 1
        self.every_outcome_is_the_requests_own()


def execute(model: ServedModel) -> None:
    while batch := model.batcher.take(wait=False):
        model.execute(batch)


TestCascade = CascadeMachine.TestCase
TestCascade.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
