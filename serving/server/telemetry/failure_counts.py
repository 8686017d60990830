"""Counts requests that ended with an error, by model, version and status code."""

import threading
from collections import Counter
from collections.abc import Container

from hangtag.serving.server.telemetry.histogram import SECONDS_BOUNDS, BucketHistogram, HistogramRecorder

FailureKey = tuple[str, str, str]
"""Model, version and status code; model and version are empty where the client named none that is served."""


class FailureCounts:
    """Histograms of the seconds from arrival to error. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorders: dict[FailureKey, HistogramRecorder] = {}
        self._shed: Counter[str] = Counter()

    def record(self, model: str, version: str, code: str, ns: int, *, shed: bool = False) -> None:
        """Count one request; ``Engine.record_failure`` is the only caller.

        Args:
            model: Name of a model that is served, or empty: names from clients would create series without end.
            version: Version of it that is served, or empty.
            code: Name of the gRPC status code.
            ns: Nanoseconds from the arrival of the request to its error.
            shed: Whether it was refused because as many requests wait, or take as much memory, as may.
        """
        with self._lock:
            self._shed[model] += shed
            recorder = self._recorders.get((model, version, code))
            if recorder is None:
                recorder = self._recorders[model, version, code] = HistogramRecorder(SECONDS_BOUNDS)
            recorder.add(ns / 1e9)

    def forget_others(self, model: str, versions: Container[str]) -> None:
        """Forget the counts of a model's other versions, as their statistics are forgotten: new ones come without end.

        Args:
            model: A model's name.
            versions: Those of its versions that are served.
        """
        with self._lock:
            for key in [key for key in self._recorders if key[0] == model and key[1] and key[1] not in versions]:
                del self._recorders[key]

    def shed(self) -> dict[str, int]:
        """How many requests were refused because as many waited as may, by model."""
        with self._lock:
            return dict(self._shed)

    def snapshot(self) -> dict[FailureKey, BucketHistogram]:
        """The histograms as they are now, in seconds."""
        with self._lock:
            return {key: recorder.histogram() for key, recorder in self._recorders.items()}
