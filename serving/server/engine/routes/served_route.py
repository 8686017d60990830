"""A route, which clients call by its own name just as they call a model."""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes.route_file import ROUTE_VERSION, Member, RouteSettings
from hangtag.serving.server.engine.routes.route_run import MemberCall
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import (
    ModelLoadError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import ModelStatistics
from hangtag.serving.server.telemetry.server_state import (
    READY,
    RouteCounts,
    RouteStatistics,
    ShadowCounts,
    VersionState,
)
from hangtag.serving.signature import Signature


class ServedRoute:
    """A route that is served. The methods that routes share with models are documented in `Servable`. When the route's
    file or the model behind a member changes, a new object replaces this object. Each object keeps its models, so a
    request is checked against the same models that compute it."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        settings: RouteSettings,
        members: Mapping[Member, Servable],
        shadow: Servable | None,
        previous: "ServedRoute | None" = None,
    ) -> None:
        """``members`` and ``shadow`` are models and routes that are served now. The new object continues the counters
        of ``previous``, the object that it replaces. Raises ModelLoadError if the members' signatures differ, or the
        route's rule cannot be applied to them."""
        require_one_signature(members)
        signature = members[settings.members[0]].signature
        if settings.acceptance is not None and (problem := settings.acceptance.problem(signature)):
            raise ModelLoadError(problem)
        self.name = name
        self.version = ROUTE_VERSION
        self.settings = settings
        self.signature = _own(signature)
        self.instances = sum(model.instances for model in members.values())
        self.on_cpu = all(model.on_cpu for model in members.values())
        self.max_queue_delay = max(model.max_queue_delay for model in members.values())
        self.statistics: ModelStatistics = ModelStatistics() if previous is None else previous.statistics
        self._members = dict(members)
        self._engine = engine
        self._strictest = min(members.values(), key=lambda model: model.max_batch_size)
        self.max_batch_size = self._strictest.max_batch_size
        self.pool = engine.pool
        self.stages: RouteStatistics = RouteStatistics() if previous is None else previous.stages
        """The counters of the members and of the shadow."""
        self._shadow_model = shadow
        self.shadow: Shadow | None = None
        if settings.shadow is not None:
            output = settings.compared_output(self.signature)
            share, of_time = settings.shadow.share, engine.config.limits.shadow_share_of_time
            self.shadow = Shadow(share, shadow, tuple(members.values()), output, self.stages, of_time)

    def joins(self, settings: RouteSettings, members: Mapping[Member, Servable], shadow: Servable | None) -> bool:
        return (self.settings, self._members, self._shadow_model) == (settings, members, shadow)

    def start(self, pool: ComputePool) -> None:
        zeros = RouteCounts(
            shadow=None if self.shadow is None else ShadowCounts(),
            low_confidence=None if self.settings.acceptance is None else 0,
            expected_escalation_rate=self.settings.expected_escalation_rate,
        )
        self.stages.begin(self.settings.stages, zeros)

    def raise_if_queue_full(self) -> None:
        """Do nothing: the member is not chosen yet, and refuses the request later if the member's queue is full."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> tuple[int, Hashable]:
        admission = self._strictest.check(inputs, datatypes)
        # some members accept empty tensors, and other members do not
        if any(0 in array.shape for array in inputs.values()):
            for model in self._members.values():
                model.check(inputs, datatypes)
        return admission

    def put(self, call: Call) -> None:
        settings = self.settings
        key = call.metadata_value(settings.sticky) if settings.sticky else ""
        stage = settings.chosen(self.name, key) if settings.weights else 0
        MemberCall(self, call, stage, call.inputs, call.samples).put()

    def ask(self, member: Member, call: Call) -> None:
        """Queue a call for a member's model or, if that is closed, for its successor. Raises like `Servable.put`."""
        model = self._members[member]
        while True:
            try:
                model.put(call)
            except UnavailableError:
                try:
                    successor = self._engine.model(member.name, member.version)
                except NotFoundError as error:
                    raise UnavailableError(f"the member {member} of route {self.name} does not serve now") from error
                if successor is model or model.signature.difference(successor.signature):
                    raise
                model = successor
            else:
                return

    def state(self) -> VersionState:
        return VersionState(
            self.name,
            self.version,
            READY,
            instances=self.instances,
            counters=self.statistics.snapshot(),
            route=self.stages.snapshot(),
        )

    def parameters(self) -> Mapping[str, str]:
        settings = self.settings
        sizes = (int(model.parameters().get("file_bytes", "0")) for model in self._members.values())
        parameters = {"route_members": ", ".join(map(str, settings.members)), "file_bytes": str(sum(sizes))}
        if settings.shadow is not None:
            parameters["route_shadow"] = f"{settings.shadow.member} {settings.shadow.share:g}"
        if settings.description:
            parameters["route_description"] = settings.description
        if (expected := settings.expected_escalation_rate) is not None:
            parameters["route_expected_sent_on"] = f"{expected:g}"
        if (rule := settings.acceptance) is not None:
            accept = f"{rule.output} {rule.rule} {rule.bound:g}"
            return {"route": "cascade", "route_accept": accept, "route_on_overload": settings.on_overload, **parameters}
        weights = ", ".join(f"{weight:g}" for weight in settings.weights)
        return {"route": "split", "route_weights": weights, "route_sticky": settings.sticky, **parameters}

    @property
    def busy(self) -> bool:
        return any(model.busy for model in self._members.values())


class _Copy(Call):
    """A copy of a call for the shadow, made as soon as the route has the call's answer."""

    may_use_all_threads = False

    def __init__(
        self, of: Call, outputs: Tensors, on_end: "Callable[[_Copy, InferenceResult | Exception], None]"
    ) -> None:
        """``outputs`` are the caller's answer, and ``on_end`` gets the shadow's outcome."""
        self.inputs = of.inputs
        self.samples = of.samples
        self.batch_key = of.batch_key
        self.outputs = outputs
        self.on_end = on_end

    def answer(self, outcome: InferenceResult | Exception) -> None:
        self.on_end(self, outcome)

    fail = answer


class Shadow:
    """Sends copies of a route's requests to another model, and compares that model's answers with the callers' answers.
    Thread-safe.

    A copy waits until every caller in the original call's batch has an answer. Then the route submits the copy if no
    request waits for the route's members, and fewer than half of each member's instances are busy. The computation of a
    copy cannot be stopped, and slows down calls that arrive meanwhile. So the server computes one copy at a time, then
    pauses. It skips copies that arrive before the pause ends, or that the model would not accept. Copies are computed
    at normal priority: a low-priority thread could be paused while it holds the interpreter lock that every call needs.
    """

    def __init__(
        self,
        share: float,
        model: Servable | None,
        members: Sequence[Servable],
        output: str,
        statistics: RouteStatistics,
        share_of_time: float,
    ) -> None:
        """Copy the fraction ``share`` of the requests to ``model``, which is None if the shadow does not serve. The
        copies take at most the fraction ``share_of_time`` of the time. A copy is skipped if the ``members`` are busy.
        In the compared ``output``, the index of the highest value is the label."""
        self._share = share
        self._model = model
        self._members = members
        self._output = output
        self._statistics = statistics
        self._share_of_time = share_of_time
        self._lock = threading.Lock()
        self._waiting: _Copy | None = None
        self._handed_over_at = 0.0
        self._rests_until = 0.0  # infinity while a copy is computed

    def compare(self, call: Call, answered: InferenceResult) -> None:
        """Decide at random whether to keep a copy of a call and its answer until ``hand_over``. Never blocks."""
        if random.random() >= self._share:  # noqa: S311 - samples calls, and is no secret
            return
        model = self._model
        if model is None:
            self._count(ShadowCounts(failed=1))
            return
        copy = _Copy(call, answered.outputs, self._ended)
        # The shadow's model may accept fewer samples than the route's members, and may not accept empty tensors.
        fits = copy.samples <= model.max_batch_size and all(array.size for array in copy.inputs.values())
        with self._lock:
            if fits and self._waiting is None and time.monotonic() >= self._rests_until:
                self._waiting = copy
                return
        self._count(ShadowCounts(skipped=1))

    def hand_over(self) -> None:
        """Submit the waiting copy, or skip it if there is other work. Called after the batch's calls are answered."""
        with self._lock:
            copy, self._waiting = self._waiting, None
            if copy is None or self._model is None:
                return
            self._handed_over_at, self._rests_until = time.monotonic(), math.inf
        try:
            if any(each.busy for each in (*self._members, self._model)):
                raise QueueFullError("the members compute calls")
            self._model.put(copy)
        except ServerError as error:
            copy.end(error)

    def _ended(self, copy: _Copy, outcome: InferenceResult | Exception) -> None:
        with self._lock:
            seconds = time.monotonic() - self._handed_over_at
            self._rests_until = self._handed_over_at + seconds / self._share_of_time
        if isinstance(outcome, InferenceResult):
            self._count(self._comparison(copy.outputs, outcome.outputs))
        else:
            is_skipped = isinstance(outcome, QueueFullError | UnavailableError)
            self._count(ShadowCounts(skipped=int(is_skipped), failed=int(not is_skipped)))

    def _comparison(self, answered: Tensors, shadow: Tensors) -> ShadowCounts:
        labels, others = (outputs[self._output].argmax(axis=-1) for outputs in (answered, shadow))
        differences = [
            float(np.abs(answered[name] - shadow[name]).max(initial=0))
            for name in answered
            if answered[name].dtype.kind == "f" and answered[name].shape == shadow[name].shape
        ]
        agreed = int((labels == others).sum())
        return ShadowCounts(1, 0, 0, labels.size, agreed, max(differences, default=0.0))

    def _count(self, counts: ShadowCounts) -> None:
        self._statistics.add(RouteCounts(shadow=counts))


def _own(signature: Signature) -> Signature:
    """Return the first member's signature without metadata that describe only this member, such as its accuracy."""
    common = ("task", "labels", "label_distances", "threshold", "min_labels", "batched", "examples")
    metadata = {key: value for key, value in signature.metadata.items() if key in common}
    if signature.image is not None:
        metadata["image"] = json.dumps(signature.image.as_json())
    return Signature(signature.inputs, signature.outputs, metadata, signature.batching_override)


def require_one_signature(models: Mapping[Member, Servable]) -> None:
    """Raise ModelLoadError if the signatures of these members, or of a member and the shadow, differ."""
    (first, model), *others = models.items()
    for member, other in others:
        if difference := model.signature.difference(other.signature):
            raise ModelLoadError(
                f"the models of a route must have one signature; {first} and {member} differ in {difference}"
            )
