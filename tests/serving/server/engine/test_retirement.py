"""What was replaced is closed, and its memory goes back to the system."""

import queue
import threading
import weakref

import pytest

from hangtag.serving.server.engine import retirement
from hangtag.serving.server.host import memory
from tests.kit.command import TIMEOUT


def test_a_models_memory_goes_back_to_the_system_once_nothing_refers_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = threading.Event()

    class Old:
        name, version = "old", "1"

        def close(self) -> None:
            forgotten.wait(TIMEOUT)

    gone: queue.SimpleQueue[bool] = queue.SimpleQueue()
    old = Old()
    reference = weakref.ref(old)
    monkeypatch.setattr(memory, "release_freed_memory", lambda: gone.put(reference() is None))
    retired = retirement.RetiredModels(0)
    retired.add([old])  # type: ignore[list-item]  # all of a Servable that it needs
    del old
    forgotten.set()
    assert gone.get(timeout=TIMEOUT)
