"""Passes one call through the members of a route."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.engine.routes.route_file import ANSWER, Acceptance
from hangtag.serving.server.errors import DeadlineError, InferenceError, QueueFullError, ServerError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors, answer
from hangtag.serving.server.telemetry.model_statistics import BatchCost, StageTimings, Timings
from hangtag.serving.server.telemetry.server_state import RouteCounts

if TYPE_CHECKING:  # served_route imports this module
    from hangtag.serving.server.engine.routes.served_route import ServedRoute

log = structlog.get_logger()


class MemberCall(Call):
    """A route's call to a member, with all samples of the caller's call. In a cascade, each later member gets only the
    samples of which the previous member was not sure. This object is also the queue in which the caller's call waits.
    The thread that computed a member's answer calls ``answer``, or ``_settle`` if this answer is final."""

    rows: npt.NDArray[np.intp] | None = None
    """Which samples of the caller's call this member gets, as indices; None for the first member, which gets all."""
    outputs: Tensors = MappingProxyType({})
    """The answers so far, for all samples of the caller's call."""
    stages: tuple[StageTimings, ...] = ()
    low_confidence = 0
    """The number of samples that keep an unsure member's answer, because the next member was overloaded."""

    def __init__(self, route: "ServedRoute", call: Call, stage: int, inputs: Tensors, samples: int) -> None:
        """``call`` is the caller's call, with the deadline of all stages. ``stage`` is the member's index."""
        self.route = route
        self.call = call
        self.stage = stage
        self.inputs = inputs
        self.samples = samples
        self.deadline = call.deadline
        self.batch_key = call.batch_key
        self.may_use_all_threads = call.may_use_all_threads

    def metadata_value(self, key: str) -> str:
        return self.call.metadata_value(key)

    def put(self) -> None:
        """Queue this call for its member. Raises the errors of `Servable.put`."""
        self.call.queue = self
        try:
            self.route.ask(self.route.settings.members[self.stage], self)
        except ServerError:
            self.call.queue = None  # a reference cycle would keep the inputs in memory
            raise
        if self.call.cancelled:  # the caller may have cancelled before this stage existed
            self.cancel()

    def cancel(self, _caller: Call | None = None) -> None:
        """Cancel this call if it still waits. This method runs if the caller cancels while this member has the call."""
        super().cancel()

    @classmethod
    def answer_batch(cls, calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
        """In one step, answer the calls for which this member's answer is final. For other calls, end this stage."""
        settled: dict[str, list[Call]] = {}
        accepted: dict[int, list[bool]] = {}  # id of a route's settings -> whether each sample of the batch is accepted
        for call in calls:
            assert isinstance(call, MemberCall)
            settings = call.route.settings
            if cost.calls > 1 and not cost.member and call.rows is None and settings.shadow is None:
                samples = accepted.get(id(settings))
                if samples is None:
                    samples = accepted[id(settings)] = _accepted(settings.acceptance, outputs)
                own = samples[call.row : call.row + call.samples]
                if own and all(own):
                    settled.setdefault(call._settle(cost), []).append(call.call)
                    continue
            call.end(call.part_of(outputs, cost))
        for member, callers in settled.items():
            answer(callers, outputs, cost._replace(member=member))

    def _settle(self, cost: BatchCost) -> str:
        """Count a call that this member alone has answered, and return the member's name. Do not end the call."""
        call, key = self.call, self.route.settings.stages[self.stage]
        call.queue = None  # as in Call.end
        call.row, call.queue_ns = self.row, self.queue_ns
        self.route.stages.record(key, call.samples)
        self.route.statistics.record_batch([call.queue_ns], BatchCost(*cost[:3], call.samples))
        return key[1]

    def answer(self, result: InferenceResult) -> None:
        """Answer the caller's call, or, if this member is not sure of some samples, queue them for the next member."""
        stage: MemberCall = self
        try:
            doubtful = self._take(result)
            if doubtful is None:
                self._complete(result.timings)
                return
            inputs = {name: array[doubtful] for name, array in self.call.inputs.items()}
            stage = MemberCall(self.route, self.call, self.stage + 1, inputs, len(doubtful))
            stage.rows, stage.outputs = doubtful, self.outputs
            stage.stages, stage.low_confidence = self.stages, self.low_confidence
            stage.put()
        except ServerError as error:
            stage.fail(error)
        except Exception as error:  # for example, the outputs do not match the signature
            log.exception("joining the answers of a cascade failed", stage=self.stage)
            self._end(InferenceError(f"the answers of the cascade's members cannot be joined: {error}"))

    def fail(self, error: Exception) -> None:
        """End the call with a member's error or, if the member is overloaded, with the previous member's answers."""
        rows, settings = self.rows, self.route.settings
        is_overload = isinstance(error, QueueFullError | DeadlineError)
        if is_overload and rows is not None and settings.on_overload == ANSWER and not self.call.cancelled:
            self.low_confidence += len(rows)
            self._complete()
        else:
            self._end(error)

    def _take(self, result: InferenceResult) -> npt.NDArray[np.intp] | None:
        """Keep the member's answers. Return the samples of which the member is not sure, or None if there are none."""
        settings, rows, timings = self.route.settings, self.rows, result.timings
        key = settings.stages[self.stage]
        got = tuple(range(self.samples) if rows is None else rows.tolist())
        if timings.stages:  # if the member is a route, its own stages name the models that answered
            self.stages += tuple(each._replace(rows=tuple(got[row] for row in each.rows)) for each in timings.stages)
        else:
            own = StageTimings(key[1], got, timings.queue_ns, timings.compute_ns, timings.batch_size)
            self.stages = (*self.stages, own)
        self.route.stages.record(key, len(got))
        if rows is None:
            self.outputs = result.outputs
        else:
            for name, array in result.outputs.items():
                self.outputs[name][rows] = array
        rule = None if self.stage == len(settings.members) - 1 else settings.acceptance
        accepted = None if rule is None else rule.accepts(result.outputs[rule.output])
        if accepted is None or accepted.all():
            self.low_confidence += timings.low_confidence  # this number is above 0 only if the member is a cascade
            return None
        doubtful = np.flatnonzero(~accepted)
        # An inner cascade reports how many of its answers are unsure, but not which ones. Every sample that is passed
        # on gets a new answer, so only the samples that are not passed on can keep an unsure answer.
        self.low_confidence += min(timings.low_confidence, len(got) - len(doubtful))
        if rows is not None:
            return np.asarray(rows[doubtful])
        # Copies, because these are views into the batch's outputs, which belong to other requests too.
        self.outputs = {name: array.copy() for name, array in self.outputs.items()}
        return doubtful

    def _complete(self, timings: Timings | None = None) -> None:
        """Answer the caller's call. ``timings`` come from the member that answered last."""
        stages = self.stages
        if timings is None or len(stages) > 1:
            queue_ns, compute_ns = (sum(times) for times in zip(*(each[2:4] for each in stages), strict=True))
            timings = Timings(queue_ns, 0, compute_ns, 0, stages[0].batch_size)
        timings = timings._replace(stages=stages, low_confidence=self.low_confidence)
        # The members count the batches that they computed. The route counts each call as a batch.
        self.route.statistics.record_batch([timings.queue_ns], BatchCost(*timings[1:4], self.call.samples))
        if timings.low_confidence:
            self.route.stages.add(RouteCounts(low_confidence=timings.low_confidence))
        self._end(InferenceResult(self.outputs, timings))

    def _end(self, outcome: InferenceResult | Exception) -> None:
        shadow = self.route.shadow
        if shadow is not None and isinstance(outcome, InferenceResult):
            # compare before the caller gets the answer, because the caller may send its next call at once
            shadow.compare(self.call, outcome)
        self.call.end(outcome)
        if shadow is not None:
            self.route.pool.after_batch(shadow.hand_over)


def _accepted(rule: Acceptance | None, outputs: Tensors) -> list[bool]:
    """Return for each sample whether this member's answer is accepted, so that no further member computes it."""
    accepted: list[bool] = []
    try:
        if rule is None:
            return [True] * len(next(iter(outputs.values())))
        accepted = rule.accepts(outputs[rule.output]).tolist()
    except Exception:  # each call is then checked on its own, and reports its own error
        log.exception("joining the answers of a batch failed")
    return accepted
