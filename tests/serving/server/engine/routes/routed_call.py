"""A call to a route whose answer says for each sample which model computed it, and the models that answer so."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.routes.route_file import CascadeSettings
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import CancelledError, QueueFullError
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.submission import Answered, Outcome, PreparedQuery
from tests.serving.server.parts import FakeRuntime, Outputs, rows

SURER = {"fast": 0.0, "other": 0.4, "slow": 0.0}
"""Name -> how much surer of a sample the model is than the sample's value is large."""
MARKS = {"fast": -10.0, "other": -20.0, "slow": -30.0}
"""Name -> the other column of the model's answers."""


def answer(name: str, x: npt.NDArray[np.float32]) -> Outputs:
    """What a model answers to x [samples, 2]: how sure it is of each sample, and the model's mark."""
    return {"y": np.stack([x[:, 0] + np.float32(SURER[name]), np.full(len(x), MARKS[name], np.float32)], axis=1)}


def member_model(name: str, version: int, config: ServerConfig) -> ServedModel:
    """A version of one of the models of `MARKS`."""
    runtime = FakeRuntime()
    runtime.compute = partial(answer, name)
    return ServedModel(ModelFile(name, version, Path("unused")), runtime, config)


class RoutedCall:
    """The query of one call to the route, and the reply to it."""

    model_name, model_version = "route", ""

    def __init__(self, values: list[float], user: str = "") -> None:
        """values: one for each sample; user: the value of the metadata key x-user-id, empty for none."""
        self.call = Call("/test.Service/Method", (("x-user-id", user),) if user else ())
        self.values = values
        self.outcomes: list[Outcome[InferenceResult]] = []
        self.left = False
        """The caller has cancelled before there was an outcome."""
        self.before_submission: Callable[[], None] | None = None
        """Called once, when the route was looked up and the request is not submitted yet."""
        self._route: ServedRoute

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[InferenceResult]:
        assert isinstance(model, ServedRoute)
        self._route = model
        inputs = rows(*self.values)
        admission = model.check(inputs, {"x": "FP32"})
        if self.before_submission is not None:
            before, self.before_submission = self.before_submission, None
            before()
        return PreparedQuery(inputs, {}, deadline, lambda result: result, admission)

    def __call__(self, outcome: Outcome[InferenceResult]) -> None:
        self.outcomes.append(outcome)

    @property
    def answered(self) -> bool:
        return any(isinstance(outcome, Answered) for outcome in self.outcomes)

    @property
    def error(self) -> Exception | None:
        return next((outcome.error for outcome in self.outcomes if not isinstance(outcome, Answered)), None)

    def check(self) -> None:
        """Require at most one outcome; and if it is an answer, that each sample has that of the right member."""
        assert len(self.outcomes) <= 1
        if self.error is not None:
            assert isinstance(self.error, CancelledError | QueueFullError), self.error
            assert self.left == isinstance(self.error, CancelledError)
        for outcome in self.outcomes:
            if isinstance(outcome, Answered):
                self._check_samples(outcome.result)

    def _check_samples(self, result: InferenceResult) -> None:
        settings, stages = self._route._settings, result.timings.stages
        members = [member.name for member in settings.members]
        asked = [stage.member for stage in stages]
        answered = {row: stage.member for stage in stages for row in stage.rows}
        assert sorted(answered) == list(range(len(self.values)))
        for row, (value, own) in enumerate(zip(self.values, result.outputs["y"], strict=True)):
            np.testing.assert_array_equal(answer(answered[row], rows(value)["x"])["y"], [own])
        if not isinstance(settings, CascadeSettings):
            assert len(asked) == 1
            assert asked[0] in members
            return
        assert asked == members[: len(asked)]
        unsure = 0
        for row, value in enumerate(self.values):
            outputs = {name: answer(name, rows(value)["x"])["y"] for name in asked}
            sure = [name for name in asked if settings.acceptance.accepts(outputs[name])[0]]
            assert answered[row] == (sure or asked[-1:])[0]
            unsure += not sure and len(asked) < len(members)
        assert result.timings.unsure == unsure
        assert not unsure or settings.on_overload == "answer"
