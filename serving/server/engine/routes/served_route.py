"""A route that serves under a name of its own, as a model's version does."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from typing import ClassVar

from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.engine.compute_pool import ComputePool
from hangtag.serving.server.engine.repository import ROUTE_VERSION
from hangtag.serving.server.engine.routes.acceptance import FLOATS
from hangtag.serving.server.engine.routes.cascade import Cascade, CascadeRun
from hangtag.serving.server.engine.routes.members import LookUp, MemberCall, RouteMembers
from hangtag.serving.server.engine.routes.route_file import CascadeSettings, Member, RouteSettings, SplitSettings
from hangtag.serving.server.engine.routes.shadow import Shadow
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.telemetry.model_statistics import BatchCost, ModelStatistics, StageTimings
from hangtag.serving.server.telemetry.route_statistics import RouteStatistics
from hangtag.serving.server.telemetry.server_state import READY, VersionState
from hangtag.serving.signature import Signature


class ServedRoute:
    """A route of one name. It is a `Servable`.

    It is made anew, with the counters of the one before, whenever its file or what serves one of its members changes.
    """

    version: ClassVar[str] = ROUTE_VERSION

    def __init__(
        self,
        name: str,
        settings: RouteSettings,
        members: Mapping[Member, Servable],
        shadow: Servable | None,
        look_up: LookUp,
        limits: Limits,
        previous: "ServedRoute | None" = None,
    ) -> None:
        """Join the members.

        Args:
            name: The route's.
            settings: Its file's content.
            members: What serves each member now.
            shadow: What serves the shadow; None where nothing does, or the route has none.
            look_up: Returns what serves a member at a later time. Raises UnavailableError where nothing does.
            limits: Of its shadow.
            previous: The route that this one replaces. Its counters go on, because they must not fall.

        Raises:
            ModelLoadError: The members' signatures differ, or the route's rule does not fit them.
        """
        self._members = RouteMembers(members, look_up)
        first = members[settings.members[0]]
        if isinstance(settings, CascadeSettings) and (problem := _unfit(settings, first.signature)):
            raise ModelLoadError(problem)
        self.name = name
        self.signature = _own(first.signature)
        self.statistics: ModelStatistics = ModelStatistics() if previous is None else previous.statistics
        self.instances = sum(members[member].instances for member in settings.members)
        self.on_cpu = all(model.on_cpu for model in members.values())
        self.max_queue_delay = max(model.max_queue_delay for model in members.values())
        self.max_batch_size = self._members.strictest.max_batch_size
        self._settings = settings
        self._pool: ComputePool | None = None
        self._shadow: Shadow | None = None
        self._stages: RouteStatistics = RouteStatistics() if previous is None else previous._stages
        if settings.shadow is not None:
            output = _compared_output(settings, self.signature)
            self._shadow = Shadow(settings.shadow.share, shadow, tuple(members.values()), output, self._stages, limits)
        names = map(str, settings.members)
        if isinstance(settings, CascadeSettings):
            self._cascade = Cascade(settings, tuple(enumerate(names, start=1)), self._members, self._stages)
            self._stages.begin_cascade(self._cascade.stages, settings.expected_sent_on)
        else:
            self._stages.begin_split((1, name) for name in names)
        if settings.shadow is not None:
            self._stages.begin_shadow()

    def share_processors(self, shared: bool) -> None:
        for member in self._settings.members:
            self._members.model(member).share_processors(shared)

    def start(self, pool: ComputePool) -> None:
        """The members compute. pool: computes for them."""
        self._pool = pool

    def close(self) -> None:
        """The members finish what is queued; copies for the shadow are dropped."""
        if self._shadow is not None:
            self._shadow.close()

    def require_place(self) -> None:
        """Which member's queue a request needs is not known yet; that member refuses it."""

    def check(self, inputs: Tensors, datatypes: Mapping[str, str]) -> Admission:
        return self._members.check(inputs, datatypes)

    def put(self, call: Call) -> None:
        shadow = self._shadow
        copied = shadow is not None and shadow.wants()

        def end(outcome: InferenceResult | Exception) -> None:
            if isinstance(outcome, InferenceResult):
                timings = outcome.timings
                # The members count the batches that they computed; the route counts each call as one of its own.
                cost = BatchCost(*timings[1:4], call.samples)
                self.statistics.record_batch([timings.queue_ns], cost)
                if timings.unsure:
                    self._stages.record_unsure(timings.unsure)
            if shadow is not None and copied and isinstance(outcome, InferenceResult):
                shadow.compare(call, outcome)  # before the caller, who may have another call copied, has the answer
            call.end(outcome)
            if shadow is not None and self._pool is not None:
                self._pool.after_batch(shadow.hand_over)

        if isinstance(self._settings, SplitSettings):
            self._put_to_one(self._settings, call, end)
        else:
            run = CascadeRun(self._cascade, call, end)
            call.queue = run
            run.start()

    def state(self) -> VersionState:
        return VersionState(
            self.name,
            self.version,
            READY,
            instances=self.instances,
            counters=self.statistics.snapshot(),
            route=self._stages.snapshot(),
        )

    def parameters(self) -> Mapping[str, str]:
        settings = self._settings
        sizes = [self._members.model(member).parameters().get("file_bytes", "0") for member in settings.members]
        shared = {"route_members": ", ".join(map(str, settings.members)), "file_bytes": str(sum(map(int, sizes)))}
        if settings.shadow is not None:
            shared["route_shadow"] = f"{settings.shadow.member} {settings.shadow.share:g}"
        if settings.description:
            shared["route_description"] = settings.description
        if isinstance(settings, CascadeSettings):
            rule, expected = settings.acceptance, settings.expected_sent_on
            return {
                "route": "cascade",
                **shared,
                "route_accept": f"{rule.output} {rule.rule} {rule.bound:g}",
                "route_on_overload": settings.on_overload,
                **({} if expected is None else {"route_expected_sent_on": f"{expected:g}"}),
            }
        weights = ", ".join(f"{weight:g}" for weight in settings.weights)
        return {"route": "split", **shared, "route_weights": weights, "route_sticky": settings.sticky}

    def _put_to_one(
        self, settings: SplitSettings, call: Call, end: Callable[[InferenceResult | Exception], None]
    ) -> None:
        member = chosen(self.name, settings, call.metadata_value(settings.sticky) if settings.sticky else "")

        def ended(outcome: InferenceResult | Exception) -> None:
            if isinstance(outcome, InferenceResult):
                outputs, timings = outcome
                stage = (1, str(member))
                self._stages.record(stage, call.samples)
                if not timings.stages:  # else the member is a route, which says more
                    rows = tuple(range(call.samples))
                    cost = StageTimings(stage[1], rows, timings.queue_ns, timings.compute_ns, timings.batch_size)
                    outcome = InferenceResult(outputs, timings._replace(stages=(cost,)))
            end(outcome)

        part = MemberCall(call, call.inputs, call.samples, ended)
        call.queue = part
        self._members.put(member, part)

    @property
    def queued(self) -> int:
        """Number of requests that wait for the members, for whomever they were sent."""
        return sum(self._members.model(member).queued for member in self._settings.members)

    @property
    def computing(self) -> int:
        """Number of batches that the members compute, for whomever."""
        return sum(self._members.model(member).computing for member in self._settings.members)


def chosen(route: str, settings: SplitSettings, key: str) -> Member:
    """Choose a member by weight: the same for the same key, at random for an empty one.

    The keys' hashes are spread evenly over the weights, so a change of the weights moves as few keys as it must. The
    route's name is hashed too: otherwise a split that is a member of another one, with the same sticky key, would get
    only keys of one end of its weights.
    """
    if key:
        digest = hashlib.blake2b(f"{route}\0{key}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
    else:
        place = random.random()  # noqa: S311 - chooses a model, not a secret
    bound, total = 0.0, sum(settings.weights)
    for member, weight in zip(settings.members, settings.weights, strict=True):
        bound += weight / total
        if place < bound:
            return member
    return settings.members[-1]


def _compared_output(settings: RouteSettings, signature: Signature) -> str:
    """The output whose highest values are a sample's label. Raises ModelLoadError if there is none."""
    if isinstance(settings, CascadeSettings):
        return settings.acceptance.output
    for spec in signature.outputs:
        if spec.datatype in FLOATS and len(spec.shape) == 2:
            return spec.name
    raise ModelLoadError("a shadow compares labels, and the models have no output of floating point [batch, labels]")


def _unfit(settings: CascadeSettings, signature: Signature) -> str:
    """Why a cascade cannot join the answers of models with this signature; empty if it can."""
    free = [str(spec) for spec in signature.outputs if None in spec.shape[1:]]
    if free:
        return f"a cascade joins the members' answers, and theirs may differ in size: {'; '.join(free)}"
    return settings.acceptance.problem(signature)


def _own(signature: Signature) -> Signature:
    """The members' signature without what is the first one's alone, such as its accuracy.

    The first one's examples are pictures with the labels that all members have.
    """
    common = ("task", "labels", "label_distances", "threshold", "min_labels", "batched", "examples")
    metadata = {key: value for key, value in signature.metadata.items() if key in common}
    if signature.image is not None:
        metadata["image"] = json.dumps(signature.image.as_json())
    return Signature(signature.inputs, signature.outputs, metadata, signature.batching_override)
