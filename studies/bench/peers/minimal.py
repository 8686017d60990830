"""A minimal Python server on pygrpc-native. Other Python servers on pygrpc-native can only be slower.

The server answers ModelInfer for images, and refuses calls when its queue is full. It has no deadlines, no checks, no
timings in replies, and no statistics except three counts of ModelStatistics. Every request must come from
`h2load.message`.

    python -m studies.bench.peers.minimal MODELS
"""

import os
import signal
import sys
import threading
from collections import deque
from pathlib import Path

import numpy as np
import onnxruntime
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.model_repository import serving_versions

_SERVICE = "/inference.GRPCInferenceService"
_INFER = 0
_MAX_BATCH = 64
_MAX_EVENTS = 256
_IMAGE_BYTES = 28 * 28
_MAX_QUEUE = 256
_RESOURCE_EXHAUSTED = 8
_SIGNAL_SECONDS = 0.1


class _Model:
    """A one-thread session, and a queue of calls for this session."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.queue: deque[tuple[int, bytes, int]] = deque()
        """For each waiting call: its id in pygrpc-native, its images, and the number of images."""
        self.calls = self.samples = self.batches = 0

    def take(self) -> list[tuple[int, bytes, int]]:
        batch: list[tuple[int, bytes, int]] = []
        samples = 0
        while self.queue and samples + self.queue[0][2] <= _MAX_BATCH:
            batch.append(self.queue.popleft())
            samples += batch[-1][2]
        return batch


class _Server:
    """Threads that receive calls, form a batch and compute it, like the threads of hangtag's native transport."""

    def __init__(self, models: Path) -> None:
        self._models = {file.name: _Model(file.path) for file in serving_versions(models)}
        self._of_head: dict[bytes, _Model] = {}
        self._sweeping = threading.Lock()
        methods = [(f"{_SERVICE}/ModelInfer", False), (f"{_SERVICE}/ModelStatistics", False)]
        self._front = NativeGrpcFront(
            "127.0.0.1:0", methods, io_threads=1, call_details=True, max_concurrent_streams=100
        )

    def run(self) -> None:
        """Answer calls until SIGTERM."""
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        self._front.start()
        sys.stderr.write(f"ready 127.0.0.1:{self._front.bound_port}\n")
        for _ in os.sched_getaffinity(0):
            threading.Thread(target=self._serve, daemon=True).start()
        while not ended.wait(_SIGNAL_SECONDS):  # poll, because the kernel may deliver the signal to another thread
            pass
        os._exit(0)  # without an exit here, the library would abort, because calls are open

    def _serve(self) -> None:
        while True:
            with self._sweeping:
                model, batch = self._next_batch()
            self._compute(model, batch)

    def _next_batch(self) -> tuple[_Model, list[tuple[int, bytes, int]]]:
        while True:
            waiting = any(model.queue for model in self._models.values())
            events = self._front.recv_batch_details(_MAX_EVENTS, 0 if waiting else None)
            assert events is not None  # None would mean that the front end is closed
            for kind, call, method, message, *_ in events:
                if kind != EVENT_CALL:
                    continue
                assert isinstance(message, bytes)
                if method == _INFER:
                    self._queue(call, message)
                else:
                    self._front.respond(call, self._statistics(message), None, ())
            for model in self._models.values():
                if batch := model.take():
                    return model, batch

    def _queue(self, call: int, message: bytes) -> None:
        samples = len(message) // _IMAGE_BYTES
        head, images = message[: -samples * _IMAGE_BYTES], message[-samples * _IMAGE_BYTES :]
        model = self._of_head.get(head)
        if model is None:
            model = self._of_head[head] = self._models[pb.ModelInferRequest.FromString(message).model_name]
        if len(model.queue) < _MAX_QUEUE:
            model.queue.append((call, images, samples))
        else:
            self._front.fail(call, _RESOURCE_EXHAUSTED, "the queue is full")

    def _compute(self, model: _Model, batch: list[tuple[int, bytes, int]]) -> None:
        images = np.frombuffer(b"".join([images for _, images, _ in batch]), np.uint8).reshape(-1, 28, 28)
        outputs = model.session.run(model.outputs, {"image": images})
        model.calls += len(batch)
        model.samples += len(images)
        model.batches += 1
        row = 0
        for call, _, samples in batch:
            parts = [output[row : row + samples].tobytes() for output in outputs]
            response = pb.ModelInferResponse(raw_output_contents=parts)
            self._front.respond(call, response.SerializeToString(), None, ())
            row += samples

    def _statistics(self, message: bytes) -> bytes:
        name = pb.ModelStatisticsRequest.FromString(message).name
        model, response = self._models[name], pb.ModelStatisticsResponse()
        statistics = response.model_stats.add(name=name, inference_count=model.samples, execution_count=model.batches)
        statistics.inference_stats.success.count = model.calls
        message = response.SerializeToString()
        assert isinstance(message, bytes)
        return message


if __name__ == "__main__":
    _Server(Path(sys.argv[1])).run()
