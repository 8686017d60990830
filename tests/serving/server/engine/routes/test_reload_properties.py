"""Each call to a route gets exactly one outcome, and each of its samples one member's answer, while the route changes.

So under any interleaving of calls, batches, cancellations, full queues, new files (other thresholds, shares, kinds,
shadows, mistakes) and new versions of the members.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes.route_control import RouteControl
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import CancelledError, QueueFullError
from hangtag.serving.server.transport.submission import Cancel, submit
from tests.serving.server.engine.routes.routed_call import MARKS, RoutedCall, member_model

FILES = [
    *(
        f'cascade = {members}\naccept = {{output = "y", at_least = {bound}}}\non_overload = "{on_overload}"'
        for members in ('["fast", "slow"]', '["slow", "fast"]', '["fast", "other", "slow"]')
        for bound in (0.5, 0.9)
        for on_overload in ("answer", "refuse")
    ),
    'cascade = ["fast", "slow"]\naccept = {output = "y", margin_at_least = 0.9}\nshadow = {model = "other", share = 1}',
    "split = {fast = 50, slow = 50}",
    'split = {slow = 90, other = 10}\nsticky = "x-user-id"\nshadow = {model = "fast", share = 1}',
    'split = {slow = 100}\nshadow = {model = "fast", share = 0.5}',
    "split = {fast = 90}",
    "split = {fast = 50, unknown = 50}",
    "split = {route = 100}",
]
"""The last three have a mistake, and change nothing."""


class ReloadMachine(RuleBasedStateMachine):
    """Rules compute the members' batches by hand."""

    @initialize(size=st.integers(1, 4), text=st.sampled_from(FILES[:-3]))
    def start(self, size: int, text: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.config = ServerConfig(models=Path(self.folder.name), max_batch_size=size, max_queue_size=size + 2)
        self.engine = Engine(self.config)
        self.models: list[ServedModel] = []
        self.retired: list[Servable] = []
        for name in MARKS:
            self.replace(name)
        (self.config.models / "route").mkdir()
        self.control = RouteControl(self.engine, self.config.models, self.retired.extend)
        self.reload(text)
        self.engine.open()
        self.calls: list[tuple[RoutedCall, Cancel]] = []

    @rule(text=st.sampled_from(FILES))
    def reload(self, text: str) -> None:
        """As a poll does."""
        file = self.config.models / "route/route.toml"
        file.unlink(missing_ok=True)
        file.write_text(text)
        self.control.want(["route"])
        self.control.refresh()
        assert self.engine.names() == ["fast", "other", "route", "slow"]

    @rule(name=st.sampled_from(list(MARKS)))
    def replace(self, name: str) -> None:
        """A new version of a member; the old one is closed later."""
        version = 1 + max((int(model.version) for model in self.models if model.name == name), default=0)
        model = member_model(name, version, self.config)
        model.start = lambda: None  # type: ignore[method-assign]
        self.models.append(model)
        self.retired += self.engine.serve(name, [model])
        if hasattr(self, "control"):
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
    )
    def arrive(self, values: list[float], user: str) -> None:
        call = RoutedCall(values[: self.config.max_batch_size], user)
        self.calls.append((call, submit(self.engine, call, call, None)))

    @rule(user=st.sampled_from(["", "a"]))
    def arrive_late(self, user: str) -> None:
        """The route is replaced, and what it sent to before is closed, between the look-up and the submission."""
        call = RoutedCall([0.5], user)
        call.before_submission = lambda: self.renew_all()
        self.calls.append((call, submit(self.engine, call, call, None)))

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
            self.reload(data.draw(st.sampled_from(FILES)))
        elif meanwhile == "replace":
            self.renew_all()
        if batch:
            model.execute(batch)

    @invariant()
    def every_outcome_is_the_calls_own(self) -> None:
        for call, _ in getattr(self, "calls", []):
            call.check()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
        if not hasattr(self, "calls"):
            return
        while any(len(model.batcher) for model in self.models):
            for model in self.models:
                while batch := model.batcher.take(wait=False):
                    model.execute(batch)
        assert all(len(call.outcomes) == 1 for call, _ in self.calls)
        self.every_outcome_is_the_calls_own()
        require_counted(self.engine, [call for call, _ in self.calls])


def require_counted(engine: Engine, calls: Sequence[RoutedCall]) -> None:
    """Each call was counted once, over all reloads."""
    (state,) = [model.state() for model in engine.models if model.name == "route"]
    answered = [call for call in calls if call.answered]
    assert state.counters.success.count == len(answered)
    assert state.counters.inference_count == sum(len(call.values) for call in answered)
    assert state.counters.fail.count == len(calls) - len(answered)
    codes = {"CANCELLED": CancelledError, "RESOURCE_EXHAUSTED": QueueFullError}
    for code, error in codes.items():
        failed = sum(isinstance(call.error, error) for call in calls)
        counted = engine.failures.snapshot().get(("route", "1", code)) or engine.failures.snapshot().get(
            ("route", "", code)
        )
        assert (0 if counted is None else counted.count) == failed


TestReload = ReloadMachine.TestCase
TestReload.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
