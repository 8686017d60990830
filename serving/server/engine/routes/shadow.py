"""Sends copies of a route's requests to another model, and compares that model's answers with the callers' answers.

A copy waits until all callers of its batch have their answers. Then the route submits the copy if no request waits for
the route's members, and fewer than half of each member's instances compute. A copy cannot be stopped, and shares the
processors with calls that arrive meanwhile. So only one copy is computed at a time, and a pause follows, so that copies
take at most `Limits.shadow_share_of_time` of the time. All remaining copies are skipped, and so are copies that the
model would not accept.

Copies get no lower priority in the operating system. If the system paused a thread that holds the interpreter lock or a
lock of ONNX Runtime's memory, every call would have to wait.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import QueueFullError, ServerError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors
from hangtag.serving.server.telemetry.server_state import RouteCounts, RouteStatistics, ShadowCounts


class _Copy(Call):
    """A copy of a call that was answered."""

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
    """The shadow of one route. Thread-safe."""

    def __init__(
        self,
        share: float,
        model: Servable | None,
        members: Sequence[Servable],
        output: str,
        statistics: RouteStatistics,
        share_of_time: float,
    ) -> None:
        """Send a ``share`` of the requests to ``model``, which is None if it does not serve, in at most
        ``share_of_time`` of the time. Requests of the route's ``members`` take precedence. In the compared ``output``,
        the index of the highest value is the label."""
        self._share = share
        self._model = model
        self._members = members
        self._output = output
        self._statistics = statistics
        self._share_of_time = share_of_time
        self._lock = threading.Lock()
        self._waiting: _Copy | None = None
        self._computing = False  # whether the shadow is computing a copy
        self._handed_over_at = 0.0
        self._rests_until = 0.0
        self._closed = False

    def compare(self, call: Call, answered: InferenceResult) -> None:
        """Keep a copy of a random share of the calls, with the caller's answer, until ``hand_over``. This method never
        blocks."""
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
            is_kept = fits and not (self._closed or self._waiting or self._computing)
            if is_kept and time.monotonic() >= self._rests_until:
                self._waiting = copy
                return
        self._count(ShadowCounts(skipped=1))

    def close(self) -> None:
        """Skip the waiting copy, and the copies of calls that are under way."""
        with self._lock:
            self._closed = True
            copy, self._waiting = self._waiting, None
        if copy is not None:
            self._count(ShadowCounts(skipped=1))

    def hand_over(self) -> None:
        """Submit the waiting copy, or skip it if there is other work. Every caller of its batch has an answer."""
        with self._lock:
            copy, self._waiting = self._waiting, None
            if copy is None or self._model is None:
                return
            self._computing = True
            self._handed_over_at = time.monotonic()
        try:
            if any(each.busy for each in (*self._members, self._model)):
                raise QueueFullError("the members compute calls")
            self._model.put(copy)
        except ServerError as error:
            copy.end(error)

    def _ended(self, copy: _Copy, outcome: InferenceResult | Exception) -> None:
        with self._lock:
            self._computing = False
            seconds = time.monotonic() - self._handed_over_at
            self._rests_until = self._handed_over_at + seconds / self._share_of_time
        if isinstance(outcome, InferenceResult):
            self._count(self._comparison(copy.outputs, outcome.outputs))
        else:
            is_skipped = isinstance(outcome, QueueFullError)
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
