"""Passes one call through the members of a route."""

from collections.abc import Sequence
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
    """The call that a route makes to a member: all samples of the caller's call, or some of them."""

    def __init__(self, run: "RouteRun", stage: int, inputs: Tensors, samples: int) -> None:
        self.deadline = run.call.deadline
        self.inputs = inputs
        self.samples = samples
        self.batch_key = run.call.batch_key
        self.may_use_all_threads = run.call.may_use_all_threads
        self.run = run
        self.stage = stage

    def answer(self, outcome: InferenceResult | Exception) -> None:
        self.run.on_stage_complete(self.stage, outcome)

    fail = answer

    def metadata_value(self, key: str) -> str:
        return self.run.call.metadata_value(key)

    @classmethod
    def answer_batch(cls, calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
        """Answer, in one step, the calls for which this member's answer is final. Each remaining call ends its stage on
        its own."""
        settled: dict[str, list[Call]] = {}
        accepted: dict[int, list[bool]] = {}  # id of a route's settings -> whether each sample of the batch is accepted
        for call in calls:
            assert isinstance(call, MemberCall)
            run = call.run
            if cost.calls > 1 and not cost.member and run.may_settle:
                samples = accepted.get(id(run.settings))
                if samples is None:
                    samples = accepted[id(run.settings)] = _accepted(run.settings.acceptance, outputs)
                own = samples[call.row : call.row + call.samples]
                if own and all(own):
                    settled.setdefault(run.settle(call, cost), []).append(run.call)
                    continue
            call.end(call.part_of(outputs, cost))
        for member, callers in settled.items():
            answer(callers, outputs, cost._replace(member=member))


def _accepted(rule: Acceptance | None, outputs: Tensors) -> list[bool]:
    """Return for each sample whether no further member must compute the sample."""
    accepted: list[bool] = []
    try:
        if rule is None:
            return [True] * len(next(iter(outputs.values())))
        accepted = rule.accepts(outputs[rule.output]).tolist()
    except Exception:  # each call is then checked on its own, and reports its own error
        log.exception("joining the answers of a batch failed")
    return accepted


class RouteRun:
    """Sends a call to a member. In a cascade, the next member then gets the samples of which this member is not sure.

    This object is the queue in which the caller's call waits. The thread that computed a member's answer calls
    `on_stage_complete`, or `settle` if the answer completes the call.
    """

    __slots__ = ("_low_confidence", "_outputs", "_route", "_rows", "_stage_call", "_stages", "call", "settings")

    def __init__(self, route: "ServedRoute", call: Call) -> None:
        """Call no member yet. ``call`` is the caller's call, whose deadline applies to all stages together."""
        self.settings = route.settings
        self._route = route
        self.call = call
        self._stage_call: MemberCall | None = None
        self._outputs: Tensors = {}
        self._rows: npt.NDArray[np.intp] | None = None  # which of the call's samples the current stage computes
        self._stages: list[StageTimings] = []
        self._low_confidence = 0

    @property
    def may_settle(self) -> bool:
        """Whether the current member's answer may complete the call: no member has answered, and the route has no
        shadow."""
        return self._rows is None and self.settings.shadow is None

    def settle(self, stage_call: MemberCall, cost: BatchCost) -> str:
        """Count a call that one member has answered completely, and return the member's name. The caller sends the
        answer."""
        self._stage_call = None
        call, key = self.call, self.settings.stages[stage_call.stage]
        call.queue = None  # as in Call.end
        call.row, call.queue_ns = stage_call.row, stage_call.queue_ns
        self._route.stages.record(key, call.samples)
        self._route.statistics.record_batch([call.queue_ns], BatchCost(*cost[:3], call.samples))
        return key[1]

    def cancel(self, call: Call) -> None:
        """Cancel the call to the current member if that call still waits."""
        # if a later stage begins meanwhile, that stage sees that the whole call is cancelled
        stage_call = self._stage_call
        if stage_call is not None:
            stage_call.cancel()

    def put(self, stage: int, inputs: Tensors, samples: int) -> None:
        """Queue these samples of the call for the member of this stage. Raises the errors of `Servable.put`."""
        stage_call = MemberCall(self, stage, inputs, samples)
        self._stage_call = stage_call
        try:
            self._route.ask(self.settings.members[stage], stage_call)
        except ServerError:
            self._stage_call = self.call.queue = None  # reference cycles would keep the inputs in memory
            raise
        if self.call.cancelled:  # the caller may have cancelled before this stage existed
            stage_call.cancel()

    def on_stage_complete(self, stage: int, outcome: InferenceResult | Exception) -> None:
        self._stage_call = None
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        try:
            doubtful = self._take(stage, outcome)
            if doubtful is None:
                self._answer(outcome.timings)
                return
            stage += 1
            self._rows = doubtful
            inputs = {name: array[doubtful] for name, array in self.call.inputs.items()}
            self.put(stage, inputs, len(doubtful))
        except ServerError as error:
            self._fail(error)
        except Exception as error:  # for example, the outputs do not match the signature
            log.exception("joining the answers of a cascade failed", stage=stage)
            self._end(InferenceError(f"the answers of the cascade's members cannot be joined: {error}"))

    def _fail(self, error: Exception) -> None:
        """End the call with a member's error, or with the answers of the member before an overloaded one."""
        rows = self._rows  # rows are set if a member of a cascade has answered
        is_overload = isinstance(error, QueueFullError | DeadlineError)
        if is_overload and rows is not None and self.settings.on_overload == ANSWER and not self.call.cancelled:
            self._low_confidence += len(rows)
            self._answer()
        else:
            self._end(error)

    def _take(self, stage: int, result: InferenceResult) -> npt.NDArray[np.intp] | None:
        """Keep a member's answers. Return the samples of which the member is not sure, or None if there are none."""
        settings, rows, timings = self.settings, self._rows, result.timings
        key = settings.stages[stage]
        got = tuple(range(self.call.samples) if rows is None else rows.tolist())
        if timings.stages:  # if the member is a route, its own stages name the models that answered
            self._stages += [each._replace(rows=tuple(got[row] for row in each.rows)) for each in timings.stages]
        else:
            self._stages.append(StageTimings(key[1], got, timings.queue_ns, timings.compute_ns, timings.batch_size))
        self._route.stages.record(key, len(got))
        if rows is None:
            self._outputs = result.outputs
        else:
            for name, array in result.outputs.items():
                self._outputs[name][rows] = array
        rule = None if stage == len(settings.members) - 1 else settings.acceptance
        accepted = None if rule is None else rule.accepts(result.outputs[rule.output])
        if accepted is None or accepted.all():
            self._low_confidence += timings.low_confidence  # this number is above 0 only if the member is a cascade
            return None
        doubtful = np.flatnonzero(~accepted)
        # An inner cascade reports how many samples got an unsure answer, but not which samples. Samples that are passed
        # on lose their unsure answer, so count at most the samples that are not passed on.
        self._low_confidence += min(timings.low_confidence, len(got) - len(doubtful))
        if rows is not None:
            return np.asarray(rows[doubtful])
        # Copies, because these are views into the batch's outputs, which belong to other requests too.
        self._outputs = {name: array.copy() for name, array in self._outputs.items()}
        return doubtful

    def _answer(self, timings: Timings | None = None) -> None:
        """Give the call its outcome. ``timings`` come from the member that answered last."""
        stages = tuple(self._stages)
        if timings is None or len(stages) > 1:
            queue_ns, compute_ns = (sum(times) for times in zip(*(each[2:4] for each in stages), strict=True))
            timings = Timings(queue_ns, 0, compute_ns, 0, stages[0].batch_size)
        timings = timings._replace(stages=stages, low_confidence=self._low_confidence)
        # The members count the batches that they computed. The route counts each call as a batch.
        self._route.statistics.record_batch([timings.queue_ns], BatchCost(*timings[1:4], self.call.samples))
        if timings.low_confidence:
            self._route.stages.add(RouteCounts(low_confidence=timings.low_confidence))
        self._end(InferenceResult(self._outputs, timings))

    def _end(self, outcome: InferenceResult | Exception) -> None:
        shadow = self._route.shadow
        if shadow is not None and isinstance(outcome, InferenceResult):
            # compared before the caller has the answer, because the caller may then send another call
            shadow.compare(self.call, outcome)
        self.call.end(outcome)
        if shadow is not None:
            self._route.pool.after_batch(shadow.hand_over)
