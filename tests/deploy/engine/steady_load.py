"""Calls a model without pause, so that a failure during a test shows as failed calls."""

import threading
from types import TracebackType

import numpy as np

from hangtag.serving.client import Client, ClientError

IN_FLIGHT = 4


class SteadyLoad:
    """IN_FLIGHT threads that call a model again and again through one connection. Use as a context manager.

    Attributes:
        answered: number of calls that succeeded.
        failures: one error message for each call that failed.
    """

    def __init__(self, address: str, model: str = "lstm") -> None:
        self._client = Client(address, timeout=10.0)
        self._model = model
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(IN_FLIGHT)]

    def wait_for_answers(self, count: int = 100, seconds: float = 60.0) -> None:
        """Waits until ``count`` more calls were answered.

        Raises:
            AssertionError: they were not answered within ``seconds``.
        """
        with self._changed:
            target = self.answered + count
            enough = self._changed.wait_for(lambda: self.answered >= target, seconds)
            assert enough, f"too few answers; the latest failures: {self.failures[-3:]}"

    def __enter__(self) -> "SteadyLoad":
        for thread in self._threads:
            thread.start()
        self.wait_for_answers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._client.close()

    def _call(self) -> None:
        image = np.zeros((1, 28, 28), np.uint8)
        while not self._stop.is_set():
            try:
                self._client.infer(self._model, {"image": image})
            except ClientError as error:
                with self._changed:
                    self.failures.append(str(error))
                continue
            with self._changed:
                self.answered += 1
                self._changed.notify_all()
