"""Closes models that were replaced or unloaded, a second later than they were taken out of the engine's table.

A thread of the transport looks a model up, decodes the request's tensors, and only then queues the request. If the
model is replaced or unloaded in between, the thread still holds the old one. Were that closed at once, a request for an
unloaded model would fail although it came in time, and one for a replaced model would have to be decoded again. So the
old model takes requests for ``Limits.linger_seconds`` more, far longer than decoding takes. Then it closes: it computes
what is queued and raises UnavailableError for any later request, whose thread looks the name up again and finds the
successor.

Its memory then goes back to the system, and so does what ONNX Runtime's arena holds unused: an unload would otherwise
leave the process as large as before, and each new version could make it larger.

A timer costs a look-up nothing, unlike a count of the threads that hold each model.
"""

import threading

import structlog

from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.host import memory
from hangtag.serving.server.runtime import arena

log = structlog.get_logger()


class RetiredModels:
    """Models that no look-up finds any more and that are not closed yet."""

    def __init__(self, linger_seconds: float) -> None:
        """linger_seconds: how long a model takes requests after it was replaced or unloaded."""
        self._linger_seconds = linger_seconds
        self._waiting: dict[threading.Timer, Servable] = {}  # by the timer that closes it

    def add(self, models: list[Servable]) -> None:
        """Close these models once they have lingered."""
        for model in models:
            timer = threading.Timer(self._linger_seconds, self._retire, [model])
            timer.daemon = True
            self._waiting[timer] = model
            timer.start()

    def close(self) -> None:
        """Close every model now, and wait for those that are being closed: nothing goes on after this."""
        for timer, model in list(self._waiting.items()):
            timer.cancel()
            model.close()
            if timer.is_alive():
                timer.join()

    def _retire(self, model: Servable) -> None:
        model.close()
        log.info("model retired", model=model.name, version=model.version)
        arena.shrink()
        memory.release_freed_memory()
        del self._waiting[threading.current_thread()]  # type: ignore[arg-type]  # it is the timer
