"""A minimal Python server on uvicorn. Other Python servers on uvicorn can only be slower.

The server computes images in batches, and answers with logits and probabilities. It has no routes, deadlines, checks,
limits, timings in responses or statistics. Every request must come from `systems.binary`.

    python -m studies.bench.peers.http_minimal MODEL.onnx PORT
"""

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from typing import Any

import numpy as np
import onnxruntime
import uvicorn

_MAX_BATCH = 64
_IMAGE_BYTES = 28 * 28
_JSON = (
    b'{"model_name":"lstm","outputs":['
    b'{"name":"logits","datatype":"FP32","shape":[1,10],"parameters":{"binary_data_size":40}},'
    b'{"name":"probabilities","datatype":"FP32","shape":[1,10],"parameters":{"binary_data_size":40}}]}'
)
_HEADERS = [
    (b"content-type", b"application/octet-stream"),
    (b"content-length", str(len(_JSON) + 80).encode()),
    (b"inference-header-content-length", str(len(_JSON)).encode()),
]


class _Batcher:
    """Threads that each have a one-thread session. An idle thread runs the model on all waiting images as one batch."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, image: bytes) -> asyncio.Future[bytes]:
        """Queue an image, and return a future for its concatenated outputs. Call this method on the event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for _ in os.sched_getaffinity(0):
                threading.Thread(target=self._serve, args=(self._loop,), daemon=True).start()
        future: asyncio.Future[bytes] = self._loop.create_future()
        with self._changed:
            self._waiting.append((image, future))
            self._changed.notify()
        return future

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]
            images = np.frombuffer(b"".join([image for image, _ in batch]), np.uint8).reshape(-1, 28, 28)
            values = np.concatenate(session.run(None, {"image": images}), axis=1)
            loop.call_soon_threadsafe(_answer, [future for _, future in batch], values.tobytes())


def _answer(futures: list[asyncio.Future[bytes]], values: bytes) -> None:
    size = len(values) // len(futures)
    for row, future in enumerate(futures):
        future.set_result(values[row * size : (row + 1) * size])


class _Application:
    def __init__(self, path: str) -> None:
        self._batcher = _Batcher(path)

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        values = await self._batcher.put(body[-_IMAGE_BYTES:])
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _JSON + values})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn stops on the signal and then raises it again
    model, port = sys.argv[1:]
    uvicorn.run(_Application(model), port=int(port), access_log=False, lifespan="off", ws="none")
