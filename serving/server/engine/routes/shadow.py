"""Sends copies of a route's requests to another model, and compares that model's answers with the callers' answers.

A copy waits until all callers of its batch have their answers, so no call fails because of a copy, or waits for one.
After an answer, the route hands over a waiting copy if no request waits for its members and fewer than half of each
member's instances compute (on two processors: if no batch of the route is being computed). A copy cannot be stopped,
and shares the processors with calls that arrive meanwhile. So the route hands over one copy at a time, and then pauses,
so that copies use at most `Limits.shadow_share_of_time`. If too many copies wait, the oldest copy is dropped. A dropped
copy is counted as skipped, and so is a copy that the model would not accept. After the route's last answer, a thread
hands over the remaining copies.

Copies get no lower priority in the operating system. If the system paused a thread that holds the interpreter lock or a
lock of ONNX Runtime's memory, every call would have to wait.
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

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import QueueFullError, ServerError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors, memory_of
from hangtag.serving.server.telemetry.server_state import RouteStatistics, ShadowCounts


class _Copy(Call):
    """A copy of a call that was answered."""

    may_use_all_threads = False

    def __init__(
        self, of: Call, outputs: Tensors, on_end: "Callable[[_Copy, InferenceResult | Exception], None]"
    ) -> None:
        """Copy a call. ``outputs`` are the caller's answer, and ``on_end`` gets the shadow's outcome."""
        self.inputs = of.inputs
        self.samples = of.samples
        self.batch_key = of.batch_key
        self.outputs = outputs
        self.on_end = on_end
        self.size = sum(map(memory_of, (*of.inputs.values(), *outputs.values())))

    def answer(self, result: InferenceResult) -> None:
        self.on_end(self, result)

    def fail(self, error: Exception) -> None:
        self.on_end(self, error)

    def detach(self) -> None:
        """Copy outputs that are part of a larger array, so that the larger array does not stay in memory. Inputs belong
        to the call."""
        self.outputs = {name: array.copy() if _is_part(array) else array for name, array in self.outputs.items()}


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
            share: The share of the requests that are copied, above 0 and at most 1.
            model: The model that gets the copies; None if the model does not serve.
            members: The route's members, whose requests take precedence.
            output: The output whose highest value names the label to compare.
            statistics: Counts the comparisons.
            limits: How many copies may wait, and what share of the time copies may take.
        """
        self._share = share
        self._model = model
        self._members = members
        self._output = output
        self._statistics = statistics
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting: deque[_Copy] = deque()
        self._bytes = 0  # bytes of the waiting copies
        self._computing = False  # whether the shadow is computing a copy
        self._handed_over_at = 0.0
        self._rests_until = 0.0
        self._closed = threading.Event()

    def start(self) -> None:
        """Accept copies from now on."""
        if self._model is not None:
            # if the system allows no more threads, copies are passed on only after the route's answers
            with suppress(RuntimeError):
                threading.Thread(target=self._hand_over_late, name="shadow", daemon=True).start()

    def wants(self) -> bool:
        """Decide at random whether the next call is copied."""
        return random.random() < self._share  # noqa: S311 - samples calls, and is no secret

    def compare(self, call: Call, answered: InferenceResult) -> None:
        """Store a copy of a call, with the caller's answer, until ``hand_over``. This method never blocks."""
        model = self._model
        if model is None:
            self._statistics.record_copies(ShadowCounts(failed=1))
            return
        copy = _Copy(call, answered.outputs, self._ended)
        # The shadow's model may accept fewer samples than the route's members, and may not accept empty tensors.
        fits = copy.samples <= model.max_batch_size and all(array.size for array in copy.inputs.values())
        with self._lock:
            dropped = 0
            if self._closed.is_set() or not fits:
                dropped = 1
            else:
                self._waiting.append(copy)
                self._bytes += copy.size
                limits = self._limits
                while len(self._waiting) > limits.max_shadow_copies or self._bytes > limits.max_shadow_bytes:
                    self._bytes -= self._waiting.popleft().size
                    dropped += 1
        if dropped:
            self._statistics.record_copies(ShadowCounts(skipped=dropped))

    def close(self) -> None:
        """Drop the waiting copies and all later copies, and count them as skipped."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            dropped = len(self._waiting)
            self._waiting.clear()
        if dropped:
            self._statistics.record_copies(ShadowCounts(skipped=dropped))

    def hand_over(self) -> None:
        """Submit the next copy, unless another copy is being computed, the shadow pauses, or there is other work.

        Call this method once every caller of a batch has an answer, because it also detaches the copies from the batch.
        """
        model = self._model
        if model is None or not self._waiting:
            return
        with self._lock:
            waiting = list(self._waiting)
        for copy in waiting:
            copy.detach()
        if any(map(_is_busy, (*self._members, model))):
            return
        with self._lock:
            if self._computing or not self._waiting or time.monotonic() < self._rests_until:
                return
            copy = self._waiting.popleft()
            self._bytes -= copy.size
            self._computing = True
            self._handed_over_at = time.monotonic()
        try:
            model.put(copy)
        except ServerError as error:
            copy.end(error)

    def _ended(self, copy: _Copy, outcome: InferenceResult | Exception) -> None:
        with self._lock:
            self._computing = False
            seconds = time.monotonic() - self._handed_over_at
            self._rests_until = self._handed_over_at + seconds / self._limits.shadow_share_of_time
        if isinstance(outcome, InferenceResult):
            counts = self._comparison(copy.outputs, outcome.outputs)
        else:
            is_skipped = isinstance(outcome, QueueFullError)
            counts = ShadowCounts(skipped=int(is_skipped), failed=int(not is_skipped))
        self._statistics.record_copies(counts)

    def _hand_over_late(self) -> None:
        """Hand over the copies that remain after the route's last answer."""
        while not self._closed.wait(self._limits.shadow_late_seconds):
            self.hand_over()

    def _comparison(self, answered: Tensors, shadow: Tensors) -> ShadowCounts:
        labels, others = (outputs[self._output].argmax(axis=-1) for outputs in (answered, shadow))
        differences = [
            float(np.abs(answered[name] - shadow[name]).max(initial=0))
            for name in answered
            if answered[name].dtype.kind == "f" and answered[name].shape == shadow[name].shape
        ]
        agreed = int((labels == others).sum())
        return ShadowCounts(1, 0, 0, labels.size, agreed, max(differences, default=0.0))


def _is_part(array: npt.NDArray[Any]) -> bool:
    return isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes


def _is_busy(member: Servable) -> bool:
    """Whether requests wait for a member, or at least half of its instances compute."""
    return member.queued > 0 or 2 * member.computing >= member.instances
