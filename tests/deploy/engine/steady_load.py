"""Calls that never pause, so that what happens to a server meanwhile shows in their answers."""

import threading
from types import TracebackType

import numpy as np

from hangtag.serving.client import Client, ClientError

IN_FLIGHT = 4


class SteadyLoad:
    """IN_FLIGHT threads that call a model again and again, through one connection. Use as a context manager."""

    def __init__(self, address: str, model: str = "lstm") -> None:
        self._client = Client(address, timeout=10.0)
        self._model = model
        self._done = threading.Event()
        self._more = threading.Condition()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(IN_FLIGHT)]

    def wait_for_answers(self, count: int = 100, seconds: float = 60.0) -> None:
        """Return once so many more calls were answered."""
        with self._more:
            wanted = self.answered + count
            assert self._more.wait_for(lambda: self.answered >= wanted, seconds), f"stuck; {self.failures[-3:]}"

    def __enter__(self) -> "SteadyLoad":
        for thread in self._threads:
            thread.start()
        self.wait_for_answers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)
        self._client.close()

    def _call(self) -> None:
        image = np.zeros((1, 28, 28), np.uint8)
        while not self._done.is_set():
            try:
                self._client.infer(self._model, {"image": image})
            except ClientError as error:
                with self._more:
                    self.failures.append(str(error))
                continue
            with self._more:
                self.answered += 1
                self._more.notify_all()
