"""The client's side of a bidirectional stream, one message at a time."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from hangtag.protos import inference_pb2 as pb
from tests.kit.live import LiveServer, index, outputs, request
from tests.kit.waiting import TIMEOUT


class Conversation:
    """A client that sends a request or receives an answer only when a test calls ``send`` or ``receive``."""

    def __init__(self, method: Callable[..., Any], *sent: Any, timeout: float | None = TIMEOUT, **options: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.send(*sent)
        self.call = method(self._outgoing(), timeout=timeout, **options)

    def send(self, *requests: Any) -> None:
        """Send these messages immediately and in this order."""
        for one in requests:
            self._requests.put(one)

    def receive(self) -> Any:
        """Wait for the next answer. Raises the stream's error."""
        return next(self.call)

    def finish(self) -> list[Any]:
        """Send no more requests, and return the remaining answers. Raises the stream's error."""
        self._requests.put(None)
        return list(self.call)

    def end(self) -> tuple[grpc.StatusCode, str]:
        """Require that the server ends the stream without a further answer, and return the status and the message."""
        answers = []
        try:
            answers = list(self.call)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError(f"the stream ended well, after {answers}")

    def _outgoing(self) -> Iterator[Any]:
        while (one := self._requests.get()) is not None:
            yield one


def gather(value: int, name: str = "", **parameters: int) -> pb.ModelInferRequest:
    """A request for the model gather, which answers with ten times the value, but fails for the value 99."""
    sent = request("gather", index=index(value))
    sent.id = name
    for key, parameter in parameters.items():
        sent.parameters[key].int64_param = parameter
    return sent


def value_of(response: pb.ModelStreamInferResponse) -> float:
    assert response.error_message == ""
    return float(outputs(response.infer_response)["value"].item())


def opened(live: LiveServer, *sent: pb.ModelInferRequest | None, **options: Any) -> Conversation:
    return Conversation(live.inference.ModelStreamInfer, *sent, **options)
