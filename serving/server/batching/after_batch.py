"""Work that may wait until every caller of a batch has its answer."""

import threading
from collections.abc import Callable


class _Pending(threading.local):
    """What this thread does after the batch whose requests it completes; None while it completes none."""

    calls: dict[Callable[[], None], None] | None = None


_pending = _Pending()


def after_batch(call: Callable[[], None]) -> None:
    """Call a function once this thread has completed all requests of its batch; at once where it completes none.

    A request's callback that has more to do than to answer uses it, so that no other caller of the batch waits for it.

    Args:
        call: It must not raise. If it is passed more than once during one batch, it is called once.
    """
    if _pending.calls is None:
        call()
    else:
        _pending.calls[call] = None


class completing_batch:  # noqa: N801 - a context manager, in a class because a generator takes longer
    """While a thread completes the requests of a batch inside, `after_batch` waits for the end."""

    __slots__ = ()

    def __enter__(self) -> None:
        _pending.calls = {}

    def __exit__(self, *_error: object) -> None:
        calls, _pending.calls = _pending.calls, None
        for call in calls or ():
            call()
