"""Sends copies of a route's requests to another model, and compares its answers with those that the callers got.

A copy waits until its caller, and every caller of the same batch, has the answer: it fails no call, and none waits for
it. An answer of the route hands over the copies that wait, if no request waits for the route's members and fewer than
half of each member's instances compute; on two processors that is while no batch of the route is being computed. A
batch of copies that has begun shares the processors with the calls that come meanwhile, and cannot be stopped. So only
as many copies are handed over at once as are computed in about `Limits.shadow_batch_seconds`, and the next ones after a
rest, so that copies are computed in at most `Limits.shadow_share_of_time`. The others wait; of too many, the oldest is
dropped and counted as skipped, as is a copy that the model would not take. A timer hands over those after which the
route answers no more.

Copies have no lower priority in the operating system: a thread that the system lets wait while it holds the
interpreter's lock, or a lock of ONNX Runtime's memory, would hold up every call.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.serving.server.batching.call import Call, InferenceResult, Tensors, memory_of
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import QueueFullError, ServerError
from hangtag.serving.server.telemetry.route_statistics import RouteStatistics


class _Copy(Call):
    """A copy of a call that was answered."""

    def __init__(
        self, of: Call, outputs: Tensors, on_end: "Callable[[_Copy, InferenceResult | Exception], None]"
    ) -> None:
        """Copy a call. outputs: what its caller got. on_end: gets the shadow's outcome."""
        self.inputs = of.inputs
        self.samples = of.samples
        self.batch_key = of.batch_key
        self.outputs = outputs
        self.on_end = on_end
        self.size = sum(map(memory_of, (*of.inputs.values(), *outputs.values())))
        self.attached = True
        """The outputs may be views into those of the whole batch, which stay in memory with them."""

    def answer(self, result: InferenceResult) -> None:
        self.on_end(self, result)

    def fail(self, error: Exception) -> None:
        self.on_end(self, error)

    def detach(self) -> None:
        """Copy outputs that are a part of a larger array. The inputs are the call's own."""
        self.outputs = {name: array.copy() if _is_part(array) else array for name, array in self.outputs.items()}
        self.attached = False


class Shadow:
    """The shadow of one route. Thread-safe."""

    def __init__(
        self,
        share: float,
        model: Servable | None,
        members: Sequence[Servable],
        output: str,
        statistics: RouteStatistics,
        limits: Limits,
    ) -> None:
        """Compare nothing yet.

        Args:
            share: Of the requests that are copied, above 0 and at most 1.
            model: Gets the copies; None where it does not serve.
            members: The route's own, whose requests go first.
            output: The output whose highest values name the labels that are compared.
            statistics: Count what is compared.
            limits: How many copies may wait, and how much of the time they are computed.
        """
        self._share = share
        self._model = model
        self._members = members
        self._output = output
        self._statistics = statistics
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0  # of the copies that wait
        self._handed_over = 0  # copies that have no outcome yet
        self._handed_over_at = 0.0
        self._at_once = 1  # samples that are handed over at once
        self._rests_until = 0.0
        self._timer: threading.Timer | None = None  # set while copies wait
        self._closed = False
        if model is not None:
            model.share_processors(True)

    def wants(self) -> bool:
        """Draw whether the next call is copied."""
        return random.random() < self._share  # noqa: S311 - samples calls, and is no secret

    def compare(self, call: Call, answered: InferenceResult) -> None:
        """Let a copy of a call wait for ``hand_over``. Never blocks. answered: what its caller got."""
        if self._model is None:
            self._statistics.shadow_failed()
            return
        copy = _Copy(call, answered.outputs, self._ended)
        with self._lock:
            dropped = 0
            if self._closed or not self._may_take(copy):
                dropped = 1
            else:
                self._waiting.append(copy)
                self._bytes += copy.size
                limits = self._limits
                while len(self._waiting) > limits.max_shadow_copies or self._bytes > limits.max_shadow_bytes:
                    self._bytes -= self._waiting.popleft().size
                    dropped += 1
                if self._waiting and self._timer is None:
                    self._start_timer()
        for _ in range(dropped):
            self._statistics.shadow_skipped()

    def close(self) -> None:
        """Drop the copies that wait, and those of requests that are answered later, and count them as skipped."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            dropped = len(self._waiting)
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
        if self._model is not None:
            self._model.share_processors(False)
        for _ in range(dropped):
            self._statistics.shadow_skipped()

    def hand_over(self) -> None:
        """Submit the next copies, unless the last ones are under way, or rest, or the processors have other work.

        To be called when every caller of a batch has an answer, because it also detaches the copies from the batch.
        """
        model = self._model
        if model is None or not self._waiting:
            return
        with self._lock:
            attached = [copy for copy in self._waiting if copy.attached]
        for copy in attached:
            copy.detach()
        if any(map(_is_busy, (*self._members, model))):
            return
        with self._lock:
            if self._handed_over or not self._waiting or time.monotonic() < self._rests_until:
                return
            copies = self._next()
            self._handed_over = len(copies)
            self._handed_over_at = time.monotonic()
        for copy in copies:
            try:
                model.put(copy)
            except ServerError as error:
                copy.end(error)

    def _may_take(self, copy: _Copy) -> bool:
        """Whether the model takes what the route's members took: it may take fewer samples, or no empty tensor."""
        assert self._model is not None
        fits = copy.samples <= self._model.max_batch_size
        return fits and all(array.size for array in copy.inputs.values())

    def _next(self) -> list[_Copy]:
        """Remove the oldest copies: at least one, and no more samples than are handed over at once."""
        copies: list[_Copy] = []
        samples = 0
        while self._waiting and (not copies or samples + self._waiting[0].samples <= self._at_once):
            copies.append(self._waiting.popleft())
            samples += copies[-1].samples
            self._bytes -= copies[-1].size
        return copies

    def _ended(self, copy: _Copy, outcome: InferenceResult | Exception) -> None:
        with self._lock:
            self._handed_over -= 1
            if not self._handed_over:
                seconds = time.monotonic() - self._handed_over_at
                limits = self._limits
                slow = seconds > limits.shadow_batch_seconds
                self._at_once = max(1, self._at_once // 2) if slow else min(self._at_once + 1, limits.max_shadow_copies)
                self._rests_until = self._handed_over_at + seconds / limits.shadow_share_of_time
        if isinstance(outcome, QueueFullError):
            self._statistics.shadow_skipped()
        elif isinstance(outcome, InferenceResult):
            self._record(copy.outputs, outcome.outputs)
        else:
            self._statistics.shadow_failed()

    def _start_timer(self) -> None:
        timer = threading.Timer(self._limits.shadow_late_seconds, self._hand_over_late)
        timer.daemon = True
        with suppress(RuntimeError):  # The system has no thread left: the route's next answer hands the copies over.
            timer.start()
            self._timer = timer

    def _hand_over_late(self) -> None:
        self.hand_over()
        with self._lock:
            self._timer = None
            if self._waiting:
                self._start_timer()

    def _record(self, answered: Tensors, shadow: Tensors) -> None:
        labels, others = (outputs[self._output].argmax(axis=-1) for outputs in (answered, shadow))
        differences = [
            float(np.abs(answered[name] - shadow[name]).max(initial=0))
            for name in answered
            if answered[name].dtype.kind == "f" and answered[name].shape == shadow[name].shape
        ]
        self._statistics.shadow_compared(labels.size, int((labels == others).sum()), max(differences, default=0.0))


def _is_part(array: npt.NDArray[Any]) -> bool:
    return isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes


def _is_busy(member: Servable) -> bool:
    """Whether requests wait for a member, or at least half of its instances compute."""
    return member.queued > 0 or 2 * member.computing >= member.instances
