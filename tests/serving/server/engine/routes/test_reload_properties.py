"""Each call to a route gets exactly one outcome, and each of its samples one member's answer, while the route changes.

So under any interleaving of calls, batches, cancellations, full queues, new files (other thresholds, shares, kinds,
shadows, mistakes) and new versions of the members.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes.route_control import RouteControl
from hangtag.serving.server.engine.servable import Cancel, Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import CancelledError, QueueFullError
from tests.serving.server.parts import Caller, FakeRuntime, Outputs, rows

FILES = {
    **{
        f'cascade = {members}\naccept = {{output = "y", at_least = {bound}}}\non_overload = "{on_overload}"': bound
        for members in ('["fast", "slow"]', '["slow", "fast"]', '["fast", "other", "slow"]')
        for bound in (0.5, 0.9)
        for on_overload in ("answer", "refuse")
    },
    'cascade = ["fast", "slow"]\naccept = {output = "y", at_least = 0.7}\nshadow = {model = "other", share = 1}': 0.7,
    "split = {fast = 50, slow = 50}": None,
    'split = {slow = 90, other = 10}\nsticky = "x-user-id"\nshadow = {model = "fast", share = 1}': None,
    'split = {slow = 100}\nshadow = {model = "fast", share = 0.5}': None,
}
"""What a file says -> how sure a cascade must be of a sample; None for a split."""
MISTAKES = ["split = {fast = 90}", "split = {fast = 50, unknown = 50}", "split = {route = 100}"]
SURER = {"fast": 0.0, "other": 0.4, "slow": 0.0}
"""Name -> how much surer of a sample the model is than the sample's value is large."""
MARKS = {"fast": -10.0, "other": -20.0, "slow": -30.0}
"""Name -> the other column of the model's answers."""


def answer(name: str, x: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> Outputs:
    """What a model answers to x [samples, 2]: how sure it is of each sample, and the model's mark."""
    return {"y": np.stack([x[:, 0] + np.float32(SURER[name]), np.full(len(x), MARKS[name], np.float32)], axis=1)}


class Call(Caller):
    """A call to the route, which followed this file, and what came of it."""

    def __init__(self, text: str, values: list[float]) -> None:
        super().__init__()
        self.text = text
        self.values = values
        self.left = False
        """The caller has cancelled before there was an outcome."""

    def check(self) -> None:
        """Require at most one outcome; and if it is an answer, that each sample has that of the right member."""
        for outcome in self.outcomes:
            assert len(self.outcomes) == 1
            if isinstance(outcome, InferenceResult):
                self._check_samples(outcome)
            else:
                assert isinstance(outcome, CancelledError | QueueFullError), outcome
                assert self.left == isinstance(outcome, CancelledError)

    def _check_samples(self, result: InferenceResult) -> None:
        stages = result.timings.stages
        asked = [stage.member for stage in stages]
        answered = {row: stage.member for stage in stages for row in stage.rows}
        assert sorted(answered) == list(range(len(self.values)))
        for row, value in enumerate(self.values):
            np.testing.assert_array_equal(answer(answered[row], rows(value)["x"])["y"], result.outputs["y"][row][None])
        bound = FILES[self.text]
        members = [name for name in sorted(MARKS, key=self.text.find) if name in self.text.partition("shadow")[0]]
        if bound is None:
            assert len(asked) == 1
            assert asked[0] in members
            return
        assert asked == members[: len(asked)]
        unsure = 0
        for row, value in enumerate(self.values):
            sure = [name for name in asked if np.float32(value) + np.float32(SURER[name]) >= bound]
            assert answered[row] == (sure or asked[-1:])[0]
            unsure += not sure and len(asked) < len(members)
        assert result.timings.unsure == unsure
        assert not unsure or "refuse" not in self.text


class ReloadMachine(RuleBasedStateMachine):
    """Rules compute the members' batches by hand."""

    @initialize(size=st.integers(1, 4), text=st.sampled_from(list(FILES)))
    def start(self, size: int, text: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.config = ServerConfig(models=Path(self.folder.name), max_batch_size=size, max_queue_size=size + 2)
        self.engine = Engine(self.config)
        self.models: list[ServedModel] = []
        self.retired: list[Servable] = []
        self.calls: list[tuple[Call, Cancel]] = []
        self.control = RouteControl(self.engine, self.config.models, self.retired.extend)
        for name in MARKS:
            self.replace(name)
        (self.config.models / "route").mkdir()
        self.reload(text)
        self.engine.open()

    @rule(text=st.sampled_from([*FILES, *MISTAKES]))
    def reload(self, text: str) -> None:
        """As a poll does."""
        file = self.config.models / "route/route.toml"
        file.unlink(missing_ok=True)
        file.write_text(text)
        self.control.want(["route"])
        self.control.refresh()
        assert self.engine.names() == ["fast", "other", "route", "slow"]
        if text in FILES:
            self.text = text

    @rule(name=st.sampled_from(list(MARKS)))
    def replace(self, name: str) -> None:
        """A new version of a member; the old one is closed later."""
        version = 1 + sum(model.name == name for model in self.models)
        runtime = FakeRuntime()
        runtime.compute = partial(answer, name)
        model = ServedModel(ModelFile(name, version, Path("unused")), runtime, self.config)
        model.start = lambda: None  # type: ignore[method-assign]
        self.models.append(model)
        self.retired += self.engine.serve(name, [model])
        self.control.refresh()

    @precondition(lambda self: self.retired)
    @rule()
    def close(self) -> None:
        model = self.retired.pop(0)
        assert isinstance(model, ServedModel)
        model.batcher.close()  # its threads do not run, and what is queued is computed by hand

    @rule(
        values=st.lists(st.sampled_from([0.1, 0.5, 0.95]), min_size=1, max_size=4),
        user=st.sampled_from(["", "a", "b"]),
        late=st.booleans(),
    )
    def arrive(self, values: list[float], user: str, late: bool) -> None:
        """late: its members are replaced and closed between the look-up of the route and the submission."""
        route = self.engine.model("route")
        call = Call(self.text, values[: self.config.max_batch_size])
        if late:
            self.renew_all()
        try:
            cancel = route.submit(rows(*call.values), {"x": "FP32"}, call, key=lambda _: user)
        except QueueFullError:
            assert call.outcomes == []
            assert any(len(model.batcher) == self.config.max_queue_size for model in self.models)
        else:
            self.calls.append((call, cancel))

    def renew_all(self) -> None:
        for name in MARKS:
            self.replace(name)
        while self.retired:
            self.close()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call, cancel = data.draw(st.sampled_from(self.calls))
        call.left = call.left or not call.outcomes
        cancel()

    @rule(data=st.data(), meanwhile=st.sampled_from(["nothing", "cancel", "reload", "replace"]))
    def compute(self, data: st.DataObject, meanwhile: str) -> None:
        """A model computes a batch, and meanwhile something else may happen."""
        busy = [model for model in self.models if len(model.batcher)]
        if not busy:
            return
        model = data.draw(st.sampled_from(busy))
        batch = model.batcher.take(wait=False)
        if meanwhile == "cancel" and self.calls:
            self.cancel(data)
        elif meanwhile == "reload":
            self.reload(data.draw(st.sampled_from([*FILES, *MISTAKES])))
        elif meanwhile == "replace":
            self.renew_all()
        if batch:
            model.execute(batch)

    @invariant()
    def every_outcome_is_the_calls_own(self) -> None:
        for call, _ in getattr(self, "calls", []):
            call.check()

    def teardown(self) -> None:
        if not hasattr(self, "text"):
            return
        self.folder.cleanup()
        while any(len(model.batcher) for model in self.models):
            for model in self.models:
                while batch := model.batcher.take(wait=False):
                    model.execute(batch)
        assert all(len(call.outcomes) == 1 for call, _ in self.calls)
        self.every_outcome_is_the_calls_own()
        (counters,) = [model.state().counters for model in self.engine.models if model.name == "route"]
        answered = [call for call, _ in self.calls if isinstance(call.outcome, InferenceResult)]
        assert counters.success.count == len(answered)  # over all reloads
        assert counters.inference_count == sum(len(call.values) for call in answered)


TestReload = ReloadMachine.TestCase
TestReload.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
