"""One call on its way through the members of a cascade."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors
from hangtag.serving.server.engine.routes.members import MemberCall, RouteMembers
from hangtag.serving.server.engine.routes.route_file import ANSWER, CascadeSettings
from hangtag.serving.server.errors import (
    DeadlineError,
    InferenceError,
    QueueFullError,
    ServerError,
)
from hangtag.serving.server.telemetry.model_statistics import StageTimings, Timings
from hangtag.serving.server.telemetry.route_statistics import RouteStatistics, StageKey

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cascade:
    """What all requests of a cascade have in common.

    Args:
        settings: Of the route.
        stages: The number of each stage, from 1, and the name of its member.
        members: Take the samples.
        statistics: Count what the members answered.
    """

    settings: CascadeSettings
    stages: tuple[StageKey, ...]
    members: RouteMembers
    statistics: RouteStatistics


class CascadeRun:
    """Asks the first member for a call, and the next one for the samples of which a member is not sure.

    It is what the call waits in. A member's thread calls `_staged` when it has answered. Only one stage of a call is
    under way at a time.
    """

    __slots__ = ("_call", "_cascade", "_lock", "_on_end", "_outputs", "_rows", "_stage_call", "_stages", "_unsure")

    def __init__(self, cascade: Cascade, call: Call, on_end: Callable[[InferenceResult | Exception], None]) -> None:
        """Ask nobody yet.

        Args:
            cascade: Its members.
            call: Its deadline is one for all stages.
            on_end: Gets the outcome, from a member's thread.
        """
        self._cascade = cascade
        self._call = call
        self._on_end = on_end
        self._lock = threading.Lock()
        self._stage_call: MemberCall | None = None
        self._outputs: Tensors = {}
        self._rows: npt.NDArray[np.intp] | None = None  # of the call's samples, those that the current stage has
        self._stages: list[StageTimings] = []
        self._unsure = 0

    def start(self) -> None:
        """Ask the first member. Raises ServerError, and there is no outcome then, if it refuses."""
        self._put(0, self._call.inputs, self._call.samples)

    def cancel(self, call: Call) -> None:
        """Drop what still waits. The current member ends the call with an error."""
        with self._lock:
            stage_call = self._stage_call
        if stage_call is not None:
            stage_call.cancel()

    def _put(self, stage: int, inputs: Tensors, samples: int) -> None:
        stage_call = MemberCall(self._call, inputs, samples, partial(self._staged, stage))
        with self._lock:
            self._stage_call = stage_call
        self._cascade.members.put(self._cascade.settings.members[stage], stage_call)
        if self._call.cancelled:  # the caller left before there was anything to cancel in this stage
            stage_call.cancel()

    def _staged(self, stage: int, outcome: InferenceResult | Exception) -> None:
        """A member has answered, or failed."""
        self._stage_call = None
        try:
            outcome = _answered(outcome)
            doubtful = self._take(stage, outcome)
            if doubtful is None:
                self._answer()
                return
            stage += 1
            self._rows = doubtful
            inputs = {name: array[doubtful] for name, array in self._call.inputs.items()}
            self._put(stage, inputs, len(doubtful))
        except (QueueFullError, DeadlineError) as error:
            if stage and self._cascade.settings.on_overload == ANSWER and not self._call.cancelled:
                self._answer(unsure=0 if self._rows is None else len(self._rows))
            else:
                self._on_end(error)
        except ServerError as error:
            self._on_end(error)
        except Exception as error:  # a bug of ours, or outputs that are not as the signature says
            log.exception("joining the answers of a cascade failed", stage=stage)
            self._on_end(InferenceError(f"the answers of the cascade's members cannot be joined: {error}"))

    def _take(self, stage: int, result: InferenceResult) -> npt.NDArray[np.intp] | None:
        """Keep a member's answers; returns the samples that it is not sure of, None if there are none."""
        settings, rows, timings = self._cascade.settings, self._rows, result.timings
        key = self._cascade.stages[stage]
        got = tuple(range(self._call.samples) if rows is None else rows.tolist())
        if timings.stages:  # the member is a route, which says which models answered
            self._stages += [each._replace(rows=tuple(got[row] for row in each.rows)) for each in timings.stages]
        else:
            self._stages.append(StageTimings(key[1], got, timings.queue_ns, timings.compute_ns, timings.batch_size))
        self._cascade.statistics.record(key, len(got))
        if rows is None:
            self._outputs = result.outputs
        else:
            for name, array in result.outputs.items():
                self._outputs[name][rows] = array
        if stage == len(settings.members) - 1:
            self._unsure += timings.unsure  # not 0 where the member is a cascade
            return None
        accepted = settings.acceptance.accepts(result.outputs[settings.acceptance.output])
        if accepted.all():
            self._unsure += timings.unsure
            return None
        doubtful = np.flatnonzero(~accepted)
        # Which samples a cascade in this one was not sure of is not known: it was at most of those that stay.
        self._unsure += min(timings.unsure, len(got) - len(doubtful))
        if rows is not None:
            return np.asarray(rows[doubtful])
        # Copies, because these are views into the batch's outputs, which belong to other requests too.
        self._outputs = {name: array.copy() for name, array in self._outputs.items()}
        return doubtful

    def _answer(self, unsure: int = 0) -> None:
        stages = tuple(self._stages)
        queue_ns, compute_ns = stages[0].queue_ns, stages[0].compute_ns
        for stage in stages[1:]:
            queue_ns += stage.queue_ns
            compute_ns += stage.compute_ns
        timings = Timings(queue_ns, 0, compute_ns, 0, stages[0].batch_size, stages, self._unsure + unsure)
        self._on_end(InferenceResult(self._outputs, timings))


def _answered(outcome: InferenceResult | Exception) -> InferenceResult:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
