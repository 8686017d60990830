"""Queries that wait on the event loop: what is kept of one whose caller leaves."""

import asyncio
import threading
import weakref
from typing import Any

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.queries.pending import Queries


class Body:
    """A query whose message is large; it is never prepared."""

    call = Call("/a/method")
    id = model_name = model_version = ""

    def prepare(self, *_: object) -> Any:
        raise AssertionError


def test_a_message_whose_caller_leaves_does_not_wait_for_a_thread() -> None:
    engine = Engine(ServerConfig())
    queries, opened = Queries(engine), threading.Event()

    async def leave_while_all_threads_work() -> "weakref.ref[Body]":
        working = [queries.in_thread(lambda: opened.wait(30)) for _ in range(usable_cpus())]
        others = asyncio.gather(*working)
        body = Body()
        kept = weakref.ref(body)
        call = asyncio.create_task(queries.outcomes([body], None))
        del body
        await asyncio.sleep(0)  # the call begins
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        del call
        found = kept()
        opened.set()
        await others
        assert found is None
        return kept

    try:
        run(leave_while_all_threads_work())
        assert [(key, count.count) for key, count in engine.failures.snapshot().items()] == [(("", "", "CANCELLED"), 1)]
    finally:
        opened.set()
        queries.close()
