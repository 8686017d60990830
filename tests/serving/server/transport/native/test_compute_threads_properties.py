"""Whatever calls come, in whatever order, the threads of the native transport leave none of them waiting."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.servable import Cancel
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport.native.compute_threads import Event
from tests.serving.server.parts import FakeRuntime, rows, served
from tests.serving.server.transport.native.events import CANCELLED, Answer, running

_calls = st.tuples(
    st.sampled_from(["native", "native", "native", "stream"]),  # a stream submits from a thread of its own, and wakes
    st.integers(0, 1),  # the model
    st.sampled_from(["wait", "leave"]),
)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(_calls, min_size=1, max_size=30),
    threads=st.integers(1, 3),
    instances=st.integers(1, 3),
    size=st.integers(1, 4),
    delay_us=st.sampled_from([0, 0, 3_000]),
    milliseconds=st.sampled_from([0.0, 0.0, 1.0, 8.0]),
)
def test_no_request_is_left_waiting(
    calls: list[tuple[str, int, str]], threads: int, instances: int, size: int, delay_us: int, milliseconds: float
) -> None:
    """Native threads, a model's own and the stand-by share the queues: each request completes once, with its answer."""
    config = ServerConfig(max_batch_size=size, instances=instances, max_queue_delay_microseconds=delay_us)
    models = []
    for _ in range(2):
        runtime = FakeRuntime()

        def compute(x: Any) -> Any:
            if milliseconds:
                threading.Event().wait(milliseconds / 1e3)
            return {"y": np.asarray(x) * 2}

        runtime.compute = compute
        models.append(served(runtime, config))
    cancels: dict[int, Cancel] = {}

    def dispatch_or_cancel(event: Event, wake: bool) -> Sequence[ServedModel]:
        model, value, answer = event
        if value == CANCELLED:
            cancel = cancels.get(id(answer))
            if cancel is not None:
                cancel()
            return []
        cancels[id(answer)] = model.submit(rows(value), {"x": "FP32"}, answer, wake=wake)
        return [model]

    with running(threads, *models, with_dispatch=dispatch_or_cancel) as (_, library):
        answers = []
        for value, (origin, number, then) in enumerate(calls):
            model = models[number]
            if origin == "native":
                answers.append((value, then, library.send(model, value)))
                if then == "leave":
                    library.cancel(model, answers[-1][2])
            else:
                answer = Answer()
                model.submit(rows(value), {"x": "FP32"}, answer)
                answers.append((value, "wait", answer))
        for value, then, answer in answers:
            outcome = answer.wait()
            assert then == "leave" or outcome.outputs["y"].tolist() == [[2 * value, 2 * value]]
