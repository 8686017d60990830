"""One request on its way through the members of a cascade."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.serving.server.batching.request import InferenceResult, OnComplete, Tensors
from hangtag.serving.server.engine.routes.members import RouteMembers
from hangtag.serving.server.engine.routes.route_file import ANSWER, CascadeSettings
from hangtag.serving.server.engine.servable import Admission, Cancel
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


class CascadeRequest:
    """Submits a request to the first member, and the samples of which a member is not sure to the next one.

    A member's thread calls `_staged` when it has answered. Only one stage of a request is under way at a time.
    """

    __slots__ = (
        "_admission",
        "_cancel_stage",
        "_cancelled",
        "_cascade",
        "_datatypes",
        "_deadline",
        "_ended",
        "_inputs",
        "_key",
        "_lock",
        "_on_complete",
        "_outputs",
        "_rows",
        "_stages",
        "_unsure",
    )

    def __init__(
        self,
        cascade: Cascade,
        inputs: Tensors,
        datatypes: Mapping[str, str],
        on_complete: OnComplete,
        deadline: float | None,
        admission: Admission,
        key: Callable[[str], str] | None,
    ) -> None:
        """Submit nothing yet.

        Args:
            cascade: Its members.
            inputs: An array for each input, the first axis the batch's.
            datatypes: The protocol's datatype of each input.
            on_complete: Gets the outcome, from a member's thread.
            deadline: One for all stages, on the monotonic clock in seconds; None for none.
            admission: What the check of the members returned.
            key: See `Servable.submit`.
        """
        self._cascade = cascade
        self._inputs = inputs
        self._datatypes = datatypes
        self._on_complete = on_complete
        self._deadline = deadline
        self._admission = admission
        self._key = key
        self._lock = threading.Lock()
        self._cancelled = False
        self._ended = False
        self._cancel_stage: Cancel | None = None
        self._outputs: Tensors = {}
        self._rows: npt.NDArray[np.intp] | None = None  # of the request's samples, those that the current stage has
        self._stages: list[StageTimings] = []
        self._unsure = 0

    def start(self, *, wake: bool) -> None:
        """Submit to the first member. Raises ServerError, and never calls on_complete then, if it refuses.

        Args:
            wake: See `Servable.submit`.
        """
        self._submit(0, self._inputs, self._admission, wake)

    def cancel(self) -> None:
        """Drop what still waits. The current member completes the request with an error."""
        with self._lock:
            self._cancelled = True
            cancel = self._cancel_stage
        if cancel is not None:
            cancel()

    def _submit(self, stage: int, inputs: Tensors, admission: Admission, wake: bool) -> None:
        cancel = self._cascade.members.submit(
            self._cascade.settings.members[stage],
            inputs,
            self._datatypes,
            partial(self._staged, stage),
            self._deadline,
            admission,
            wake=wake,
            key=self._key,
        )
        with self._lock:
            if self._ended:
                return
            self._cancel_stage = cancel
            cancelled = self._cancelled
        if cancelled:  # the caller left while the request was between two stages
            cancel()

    def _staged(self, stage: int, outcome: InferenceResult | ServerError) -> None:
        """A member has answered, or failed."""
        try:
            outcome = _answered(outcome)
            doubtful = self._take(stage, outcome)
            if doubtful is None:
                self._answer()
                return
            stage += 1
            self._rows = doubtful
            inputs = {name: array[doubtful] for name, array in self._inputs.items()}
            self._submit(stage, inputs, (len(doubtful), self._admission[1]), True)
        except (QueueFullError, DeadlineError) as error:
            if stage and self._cascade.settings.on_overload == ANSWER and not self._cancelled:
                self._answer(unsure=0 if self._rows is None else len(self._rows))
            else:
                self._end(error)
        except ServerError as error:
            self._end(error)
        except Exception as error:  # a bug of ours, or outputs that are not as the signature says
            log.exception("joining the answers of a cascade failed", stage=stage)
            self._end(InferenceError(f"the answers of the cascade's members cannot be joined: {error}"))

    def _take(self, stage: int, result: InferenceResult) -> npt.NDArray[np.intp] | None:
        """Keep a member's answers; returns the samples that it is not sure of, None if there are none."""
        settings, rows, timings = self._cascade.settings, self._rows, result.timings
        key = self._cascade.stages[stage]
        got = tuple(range(self._admission[0]) if rows is None else rows.tolist())
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
        self._end(InferenceResult(self._outputs, timings))

    def _end(self, outcome: InferenceResult | ServerError) -> None:
        on_complete = self._on_complete
        with self._lock:
            self._ended = True
            # A transport's call keeps what cancels it, which refers to this request. What completes the request and its
            # key refer to the call: without this, the circle of references would keep an unloaded model in memory.
            self._cancel_stage = None
            self._on_complete = _nothing
            self._key = None
        on_complete(outcome)


def _answered(outcome: InferenceResult | ServerError) -> InferenceResult:
    if isinstance(outcome, ServerError):
        raise outcome
    return outcome


def _nothing(_outcome: InferenceResult | ServerError) -> None:
    """Takes no outcome, since the request has ended."""
