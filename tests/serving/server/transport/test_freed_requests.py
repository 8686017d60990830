"""The server frees the memory of a refused request at once, without a garbage collection."""

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.wire.transport_call import TransportCall
from tests.kit.live import LiveServer, failure, request
from tests.kit.over_http import HTTP
from tests.kit.waiting import TIMEOUT, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_a_refused_request_is_freed_at_once(live: LiveServer, transport: str) -> None:
    sent = request("classifier", wrong=np.zeros((2, 28, 28), np.uint8))
    picture = pb.ClassifyRequest(model_name="text", raw=pb.RawImage(height=1, width=1))
    call: Callable[..., Iterator[bytes]] = live.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer"
    )
    gc.collect()
    gc.disable()
    try:
        assert failure(lambda: live.inference.ModelInfer(sent, timeout=TIMEOUT))[0] is INVALID
        assert failure(lambda: live.classifier.Classify(picture, timeout=TIMEOUT))[0] is INVALID
        if transport != HTTP:
            for messages in ([sent.SerializeToString()] * 3, [sent.SerializeToString(), b"no message"]):
                with suppress(grpc.RpcError):
                    list(call(iter(messages), timeout=TIMEOUT))
        until(lambda: not [each for each in gc.get_objects() if isinstance(each, TransportCall)])
    finally:
        gc.enable()
