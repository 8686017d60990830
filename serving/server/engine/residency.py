"""With --max-loaded-mib, loads a model on its first call, and chooses which models to unload to make room.

A call to a model that is not loaded waits here undecoded, because decoding needs the loaded model's signature. An
unload lets the model compute its queue first, and a later call loads the model again, so no call fails because of an
unload. gRPC cancels a waiting call at its deadline. For other transports, the queue refuses a call if its deadline has
passed during the load.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import QueueFullError
from hangtag.serving.server.host.watched_files import Stamp


class Residency:
    """Decides which models are loaded. Thread-safe."""

    def __init__(self, config: ServerConfig, load_now: Callable[[str], None]) -> None:
        """``load_now`` makes room for a model, loads it and serves it. It raises ServerError if the model cannot be
        loaded."""
        self.names: frozenset[str] = frozenset()
        """The models that are loaded on their first call, and unloaded to make room. Empty without --max-loaded-mib."""
        self._config = config
        self._load_now = load_now
        self._lock = threading.Lock()
        self._loading: dict[str, tuple[Future[None], int]] = {}  # unfinished loads, with the number of waiting calls
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    def load(self, name: str) -> "Future[None]":
        """Load one of ``names`` for a call, after the models that other calls need. All calls that come before the
        model is loaded get one future, which must not be cancelled. If max_queue_size calls wait for the model already,
        the future has a QueueFullError."""
        with self._lock:
            load, waiting = self._loading.get(name, (None, 0))
            if load is None:
                load = self._loader.submit(self._load, name)
            if waiting < self._config.max_queue_size:
                self._loading[name] = load, waiting + 1
                return load
        full: Future[None] = Future()
        full.set_exception(QueueFullError(f"{waiting} requests wait for {name!r} to be loaded; try again later"))
        return full

    def unload_for(self, name: str, stamps: Iterable[Stamp], serving: Iterable[Servable]) -> list[str]:
        """Choose the models to unload before this model is loaded from the files of ``stamps``. ``serving`` lists the
        versions that serve now, model by model. Raises QueueFullError if unloading makes too little room."""
        served = (model for model in serving if isinstance(model, ServedModel))
        models = {each: list(versions) for each, versions in groupby(served, lambda model: model.name)}
        needed = _mib(stamps)
        free = self._config.max_loaded_mib - sum(_mib(model.stamp for model in each) for each in models.values())
        chosen = []
        for each in sorted((models.keys() & self.names) - {name}, key=lambda each: _last_used(models[each])):
            if needed > free:
                chosen.append(each)
                free += _mib(model.stamp for model in models[each])
        if needed > free:
            raise QueueFullError(
                f"{name!r} needs {needed:.1f} MiB, but models that stay loaded leave only {free:.1f} of the "
                f"{self._config.max_loaded_mib} MiB of --max-loaded-mib"
            )
        return chosen

    def _load(self, name: str) -> None:
        try:
            self._load_now(name)
        finally:
            with self._lock:
                del self._loading[name]  # the future of a load refers to every call that waited for the load


def _mib(stamps: Iterable[Stamp]) -> float:
    return sum(status[1] for stamp in stamps for _, status in stamp if status is not None) / 2**20


def _last_used(models: list[ServedModel]) -> tuple[bool, int]:
    """Return a sort key that puts models in the order of their last calls, or of their loads if they were not called,
    and models that compute now at the end."""
    is_busy = any(model.batcher.waiting or model.batcher.computing for model in models)
    return is_busy, max(max(model.started_ns, model.statistics.last_inference_ns) for model in models)
