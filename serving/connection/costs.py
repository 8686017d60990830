"""Keep what a server says beside an inference's answer: in trailing metadata over gRPC, in headers over HTTP."""

from collections.abc import Iterable
from typing import Any

_PREFIX = "hangtag-"


def keep_costs(response: Any, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Put the keys that begin with ``hangtag-`` into the response's parameters, as in the responses of a stream.

    Args:
        response: The response to any call; only that to ModelInfer is changed.
        metadata: Keys and values, as they came with it.
    """
    from hangtag.protos import inference_pb2  # a health check, which containers run often, does without

    if not isinstance(response, inference_pb2.ModelInferResponse):
        return
    for key, value in metadata:
        if key.startswith(_PREFIX) and isinstance(value, str):
            response.parameters[key.replace("-", "_")].string_param = value
