"""Sends copies of a route's requests to another model, and compares its answers with those that the callers got.

A copy is submitted after its caller was answered, so that it fails no call and none waits for it. While requests other
than copies wait for the shadow's model, while requests wait for the route's members, and while too many copies are
under way, a copy is skipped and counted.
"""

import random
import threading
from collections.abc import Callable, Mapping

import numpy as np

from hangtag.serving.server.batching.request import InferenceResult, Tensors
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import QueueFullError, ServerError, UnavailableError
from hangtag.serving.server.telemetry.route_statistics import RouteStatistics

MAX_OPEN = 64
"""Copies that may be under way at once."""


class Shadow:
    """The shadow of one route. Thread-safe."""

    def __init__(
        self,
        share: float,
        model: Servable | None,
        busy: Callable[[], bool],
        output: str,
        statistics: RouteStatistics,
    ) -> None:
        """Compare nothing yet.

        Args:
            share: Of the requests that are copied, above 0 and at most 1.
            model: Gets the copies; None where it does not serve.
            busy: Whether requests wait for the route's own members.
            output: The output whose highest values name the labels that are compared.
            statistics: Count what is compared.
        """
        self._share = share
        self._model = model
        self._busy = busy
        self._output = output
        self._statistics = statistics
        self._lock = threading.Lock()
        self._open = 0

    def wants(self) -> bool:
        """Draw whether the next call is copied."""
        return random.random() < self._share  # noqa: S311 - samples calls, and is no secret

    def compare(
        self, inputs: Tensors, datatypes: Mapping[str, str], admission: Admission, answered: InferenceResult
    ) -> None:
        """Submit a copy of a request that was answered. Never raises, and never waits.

        Args:
            inputs: The request's.
            datatypes: The protocol's datatype of each input.
            admission: What the check of the request returned.
            answered: What the caller got.
        """
        with self._lock:
            if self._open >= MAX_OPEN:
                self._statistics.shadow_skipped()
                return
            copies = self._open
            self._open += 1

        def completed(outcome: InferenceResult | ServerError) -> None:
            with self._lock:
                self._open -= 1
            if isinstance(outcome, QueueFullError):
                self._statistics.shadow_skipped()
            elif isinstance(outcome, ServerError):
                self._statistics.shadow_failed()
            else:
                self._record(answered.outputs, outcome.outputs)

        model = self._model
        if model is None:
            completed(UnavailableError("the shadow's model does not serve"))
        elif model.queued > copies or self._busy():  # more wait than the copies that wait or are being computed
            completed(QueueFullError("requests wait"))
        else:
            try:
                model.submit(inputs, datatypes, completed, admission=admission)
            except ServerError as error:
                completed(error)

    def _record(self, answered: Tensors, shadow: Tensors) -> None:
        labels, others = (outputs[self._output].argmax(axis=-1) for outputs in (answered, shadow))
        differences = [
            float(np.abs(answered[name] - shadow[name]).max(initial=0))
            for name in answered
            if answered[name].dtype.kind == "f" and answered[name].shape == shadow[name].shape
        ]
        self._statistics.shadow_compared(labels.size, int((labels == others).sum()), max(differences, default=0.0))
