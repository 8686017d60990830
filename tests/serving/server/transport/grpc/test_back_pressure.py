"""Streams under pressure: back-pressure, clients that go away, deadlines, the server's stop, too many streams."""

import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from tests.kit.conversation import (
    Conversation,
    gather,
    occupied,
    opened,
    value_of,
)
from tests.kit.live import LiveServer, index, number, outputs, request
from tests.kit.over_http import live_server
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.slow


def test_a_stream_is_read_only_as_far_as_it_is_answered(own: LiveServer) -> None:
    """The queue holds 4: more at once would be refused."""
    with own.gates.closed("gather") as gate:
        talk = opened(own, *[gather(place % 4) for place in range(40)])
        until(lambda: sum(gate.batch_sizes) + own.queued("gather") == 4)
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [place % 4 * 10 for place in range(40)]


def test_large_requests_are_read_one_by_one(repository: Path) -> None:
    """Each is over half of what may be on its way, so they are never joined, although one model could take them all."""
    with live_server("auto", repository, max_message_mib=1) as server:
        gate = server.gates.counted("free_axis")
        large = request("free_axis", x=np.ones((1, 150_000), np.float32))
        answers = opened(server, *[large] * 10).finish()
        assert [outputs(answer.infer_response)["total"].item() for answer in answers] == [150_000] * 10
        assert gate.batch_sizes == [1] * 10


def test_a_full_queue_refuses_a_streams_request_at_once(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        calls = [occupied(own, gate)]
        for value in range(4):
            calls.append(own.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT))
            own.wait_until_queued("gather", value + 1)
        talk = opened(own, gather(1))
        refused = talk.receive()
        assert refused.error_message.startswith("4 requests are waiting, as many as the queue holds")
        assert refused.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
        gate.open()
        assert all(call.result() for call in calls)
        talk.send(gather(2))
        assert value_of(talk.receive()) == 20


@pytest.mark.parametrize("vanish", [False, True], ids=["cancels", "vanishes"])
def test_requests_of_a_client_that_leaves_are_dropped_and_others_answered(own: LiveServer, vanish: bool) -> None:
    with own.gates.closed("gather") as gate:
        computing = occupied(own, gate)
        with own.connect() as channel:
            method = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            talk = Conversation(method, gather(1), gather(2))
            own.wait_until_queued("gather", 2)
            stays = own.inference.ModelInfer.future(request("gather", index=index(3)), timeout=TIMEOUT)
            own.wait_until_queued("gather", 3)
            if not vanish:
                talk.call.cancel()
                own.wait_until_queued("gather", 1)
        own.wait_until_queued("gather", 1)
        gate.open()
        assert [outputs(call.result())["value"].item() for call in (computing, stays)] == [0, 30]
        assert gate.batch_sizes == [1, 1]
        assert talk.call.code() is grpc.StatusCode.CANCELLED
    assert own.statistics("gather").inference_count == 2


def test_a_streams_deadline_is_the_deadline_of_its_requests(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        computing = occupied(own, gate)
        talk = opened(own, gather(1), gather(2), timeout=0.5)
        assert talk.end()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        own.wait_until_queued("gather", 0)
        gate.open()
        assert computing.result()
    assert own.statistics("gather").inference_count == 1


def test_a_request_may_have_a_deadline_of_its_own(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        computing = occupied(own, gate)
        sent = gather(1), gather(2, "late", timeout=300_000), gather(3)
        talk = opened(own, *sent, timeout=None)
        own.wait_until_queued("gather", 3)
        sent_at = time.monotonic()
        until(lambda: time.monotonic() > sent_at + 0.3)
        gate.open()
        first, late, last = talk.finish()
        assert [value_of(first), value_of(last)] == [10, 30]
        assert late.error_message.startswith("the deadline passed while the request waited")
        assert late.infer_response.id == "late"
        assert late.infer_response.parameters["status"].string_param == "DEADLINE_EXCEEDED"
        assert computing.result()
        assert gate.batch_sizes == [1, 2]


@pytest.mark.parametrize("timeout", [0, -1])
def test_an_invalid_timeout_is_refused(live: LiveServer, timeout: int) -> None:
    (answer,) = opened(live, gather(1, timeout=timeout)).finish()
    assert answer.error_message.startswith("the parameter 'timeout' must be an int64 of microseconds above 0, not ")


def test_a_stopping_server_answers_the_requests_it_has_read_then_ends_the_stream(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        talk = opened(own, gather(1), gather(2))
        until(lambda: sum(gate.batch_sizes) + own.queued("gather") == 2)
        idle = opened(own, request("free_axis", x=number(1)))
        idle.receive()
        stopping = threading.Thread(target=own.server.stop, kwargs={"grace": 10 * TIMEOUT})
        stopping.start()
        assert idle.end()[0] is grpc.StatusCode.UNAVAILABLE
        code, message = opened(own, gather(3)).end()
        assert (code, message.startswith("the server is stopping")) == (grpc.StatusCode.UNAVAILABLE, True)
        gate.open()
        assert [value_of(talk.receive()), value_of(talk.receive())] == [10, 20]
        code, message = talk.end()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message.startswith("the server is stopping; send what it has not answered on a new stream")
        stopping.join(TIMEOUT)  # it does not wait for clients that only listen
        assert not stopping.is_alive()


def test_a_stream_that_has_sent_everything_ends_with_ok_at_a_stop(few: Path) -> None:
    """Nothing tells a client that the server has read its end, so it may come too late, but not each time."""
    codes: list[grpc.StatusCode] = []
    while grpc.StatusCode.OK not in codes and len(codes) < 5:
        with live_server("grpc", few, instances=1) as own, own.gates.closed("gather") as gate:
            talk = opened(own, gather(1), None)
            gate.wait_until_computing()
            for _ in range(10):  # on the same connection, and usually behind the stream's end
                own.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT)
            stopping = threading.Thread(target=own.server.stop, kwargs={"grace": 10 * TIMEOUT})
            stopping.start()
            gate.open()
            assert value_of(talk.receive()) == 10
            stopping.join(TIMEOUT)
            codes.append(talk.call.code())
    assert grpc.StatusCode.OK in codes


def test_streams_above_the_limit_are_refused(few: Path, transport: str) -> None:
    """A stream whose client has left makes room, as one that ends does."""
    with live_server(transport, few, limits=Limits(max_streams=2)) as own:
        talks = [opened(own, gather(1)) for _ in range(2)]
        assert [value_of(talk.receive()) for talk in talks] == [10, 10]
        code, message = opened(own, gather(1)).end()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("2 streams are open")
        assert talks.pop().finish() == []
        talks.append(opened(own, gather(2)))
        assert value_of(talks[-1].receive()) == 20
        for talk in talks:
            talk.call.cancel()
        until(lambda: answered(own, 3))


def answered(own: LiveServer, value: int) -> bool:
    """Whether a new stream is answered; the server may not know yet that another one has ended."""
    try:
        return value_of(opened(own, gather(value)).receive()) == 10 * value
    except grpc.RpcError:
        return False
