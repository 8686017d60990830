"""A route that serves under its own name, like a version of a model."""

import hashlib
import json
import random
from bisect import bisect
from collections.abc import Hashable, Mapping
from itertools import accumulate

from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.repository import ROUTE_VERSION
from hangtag.serving.server.engine.routes.route_file import FLOATS, Member, RouteSettings
from hangtag.serving.server.engine.routes.route_run import RouteRun
from hangtag.serving.server.engine.routes.shadow import Shadow
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import ModelLoadError, NotFoundError, UnavailableError
from hangtag.serving.server.queue.call import Call, Tensors
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
    """A route that serves. The methods that routes share with models are documented in `Servable`.

    When the route's file or the model behind a member changes, a new object replaces this object. Each object keeps its
    models, so the models that check a request also compute it. If a replaced model is closed, the request goes to the
    model's successor.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        settings: RouteSettings,
        members: Mapping[Member, Servable],
        shadow: Servable | None,
        previous: "ServedRoute | None" = None,
    ) -> None:
        """Join the members and the shadow, the models and routes that serve now. The new object continues the counters
        of ``previous``, the object that it replaces, because counters must not fall.

        Raises:
            ModelLoadError: The members' signatures differ, or the route's rule cannot be applied to them.
        """
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
            output = _compared_output(settings, self.signature)
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

    def close(self) -> None:
        if self.shadow is not None:
            self.shadow.close()

    def raise_if_queue_full(self) -> None:
        """Do nothing: the request's member, which refuses the request if its queue is full, is not known yet."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> tuple[int, Hashable]:
        admission = self._strictest.check(inputs, datatypes)
        # some members accept empty tensors, and other members do not
        if any(0 in array.shape for array in inputs.values()):
            for model in self._members.values():
                model.check(inputs, datatypes)
        return admission

    def put(self, call: Call) -> None:
        call.queue = run = RouteRun(self, call)
        run.put(chosen(self.name, self.settings, call) if self.settings.weights else 0, call.inputs, call.samples)

    def ask(self, member: Member, call: Call) -> None:
        """Queue a call for a member's model, or for its successor if the model is closed. Raises the errors of
        `Servable.put`."""
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


def chosen(route: str, settings: RouteSettings, call: Call) -> int:
    """Choose a member by weight, and return its index. All calls with one sticky key get one member; other calls choose
    at random.

    The keys' hashes are spread evenly over the weights, so a change of the weights moves as few keys as possible. The
    route's name is hashed too, because two nested splits may have the same sticky key.
    """
    key = call.metadata_value(settings.sticky) if settings.sticky else ""
    if key:
        digest = hashlib.blake2b(f"{route}\0{key}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest) / 2**64
    else:
        point = random.random()  # noqa: S311 - chooses a model, not a secret
    bounds = list(accumulate(settings.weights))
    return min(bisect(bounds, point * bounds[-1]), len(bounds) - 1)


def _compared_output(settings: RouteSettings, signature: Signature) -> str:
    """Return the output whose highest value is at the index of the label, or raise ModelLoadError."""
    if settings.acceptance is not None:
        return settings.acceptance.output
    for spec in signature.outputs:
        if spec.datatype in FLOATS and len(spec.shape) == 2:
            return spec.name
    raise ModelLoadError("a shadow compares labels, so the models need a floating-point output [batch, labels]")


def _own(signature: Signature) -> Signature:
    """Return the first member's signature without what describes only this member, such as its accuracy."""
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
