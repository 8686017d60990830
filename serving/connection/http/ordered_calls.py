"""Make calls from several threads, and yield their results in the order of their requests."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


def ordered_calls(
    call: Callable[[Request], Result], requests: Iterable[Request], in_flight: int, wait: Callable[[], float | None]
) -> Iterator[Result]:
    """Yield the result of each call. An exception of ``requests`` is raised after the results of those before it.

    Args:
        call: makes one call, in a thread.
        requests: taken one by one, by a thread, when another call may begin.
        in_flight: how many calls are made at once.
        wait: returns for how many seconds the next result may be waited for; None is no limit.

    Raises:
        TimeoutError: a result did not come in time.
    """
    begun: queue.SimpleQueue[Future[Result] | Exception | None] = queue.SimpleQueue()
    free, stopped = threading.Semaphore(in_flight), threading.Event()
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="stream")

    def begin_all() -> None:
        try:
            for request in requests:
                free.acquire()
                if stopped.is_set():
                    return
                begun.put(pool.submit(call, request))
        except Exception as error:
            begun.put(error)
        else:
            begun.put(None)

    threading.Thread(target=begin_all, name="requests", daemon=True).start()
    try:
        while True:
            try:
                future = begun.get(timeout=wait())
            except queue.Empty:
                raise TimeoutError from None
            if future is None:
                return
            if isinstance(future, Exception):
                raise future
            yield future.result(wait())
            free.release()
    finally:
        stopped.set()
        free.release()  # the thread that takes requests may wait for it
        pool.shutdown(wait=False, cancel_futures=True)
