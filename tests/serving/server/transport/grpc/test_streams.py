"""ModelStreamInfer: response order, errors returned in order, back-pressure, client disconnects, and shutdown."""

import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from tests.kit.conversation import Conversation, gather, opened, value_of
from tests.kit.live import LiveServer, index, number, outputs, request
from tests.kit.over_http import live_server
from tests.kit.requests import anything
from tests.kit.waiting import TIMEOUT, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_comes_before_the_next_request_and_says_what_it_cost(live: LiveServer) -> None:
    talk = opened(live)
    for value in (3, 1, 2):
        talk.send(gather(value))
        answer = talk.receive()
        assert value_of(answer) == 10 * value
        parameters = answer.infer_response.parameters
        assert parameters["batch_size"].int64_param == 1
        assert parameters["compute_ns"].int64_param > 0
        assert parameters["queue_ns"].int64_param >= 0
    assert talk.finish() == []
    assert talk.call.code() is grpc.StatusCode.OK
    assert opened(live).finish() == []  # a stream without requests gets no answers


def test_a_failure_is_answered_in_its_place_and_the_stream_goes_on(live: LiveServer) -> None:
    unknown, wrong, full = gather(1, "a"), gather(1, "b"), request("gather", index=index(*range(17)))
    unknown.model_name, wrong.inputs[0].name, full.id = "nobody", "place", "c"
    talk = opened(live, gather(1), unknown, gather(2), wrong, full)
    answers = [talk.receive() for _ in range(5)]
    talk.send(gather(99, "d"), gather(1, "e", timeout=0))
    answers += [talk.receive(), talk.receive()]
    talk.send(gather(3))
    answers += talk.finish()
    assert [value_of(answers[place]) for place in (0, 2, 7)] == [10, 20, 30]
    for place, name, status, message in (
        (1, "a", "NOT_FOUND", "Request for unknown model: 'nobody'"),
        (3, "b", "INVALID_ARGUMENT", "unknown input 'place'"),
        (4, "c", "INVALID_ARGUMENT", "17 samples in one request"),
        (5, "d", "INVALID_ARGUMENT", "ONNX Runtime refuses the request's values"),
        (6, "e", "INVALID_ARGUMENT", "the parameter 'timeout' must be an int64 of microseconds above 0"),
    ):
        failed = answers[place].infer_response
        assert (failed.id, failed.parameters["status"].string_param) == (name, status)
        assert answers[place].error_message.startswith(message)
        assert not failed.outputs


def test_requests_of_one_stream_share_batches_with_each_other_and_with_calls(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        (computing,) = own.occupy(gate, gather(0))
        talk = opened(own, gather(1), gather(2), gather(3))
        own.wait_until_queued("gather", 3)
        alone = own.begin(gather(2))
        own.wait_until_queued("gather", 4)
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [10, 20, 30]
        assert outputs(alone.result())["value"].item() == 20
        assert outputs(computing.result())["value"].item() == 0
        assert gate.batch_sizes == [1, 4]


def test_undecodable_bytes_end_the_stream_after_the_answers_before_them(live: LiveServer) -> None:
    method: Any = live.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    talk = Conversation(method, gather(1).SerializeToString(), b"\xff\xff\xff")
    assert value_of(pb.ModelStreamInferResponse.FromString(talk.receive())) == 10
    code, message = talk.end()
    assert code is INVALID
    assert message.startswith("the bytes are not a message that /inference.GRPCInferenceService/ModelStreamInfer takes")


def test_tritons_clients_can_request_that_the_first_error_ends_the_stream(live: LiveServer) -> None:
    unknown = gather(1)
    unknown.model_name = "nobody"
    talk = opened(live, gather(1), unknown, gather(2), metadata=[("triton_grpc_error", "true")])
    assert value_of(talk.receive()) == 10
    assert talk.end()[0] is grpc.StatusCode.NOT_FOUND


def test_a_stream_is_read_only_as_far_as_it_is_answered(own: LiveServer) -> None:
    """The server would refuse requests that do not fit into its queue of 4."""
    with own.gates.closed("gather") as gate:
        talk = opened(own, *[gather(place % 4) for place in range(40)])
        until(lambda: sum(gate.batch_sizes) + own.queued("gather") == 4)
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [place % 4 * 10 for place in range(40)]


def test_large_requests_are_read_one_by_one(repository: Path) -> None:
    """Each request takes more than half of the bytes that may be in flight, so no two requests share a batch."""
    with live_server("auto", repository, max_message_mib=1) as server:
        gate = server.gates.counted("free_axis")
        large = request("free_axis", x=np.ones((1, 150_000), np.float32))
        answers = opened(server, *[large] * 10).finish()
        assert [outputs(answer.infer_response)["total"].item() for answer in answers] == [150_000] * 10
        assert gate.batch_sizes == [1] * 10


@pytest.mark.parametrize("vanish", [False, True], ids=["cancels", "vanishes"])
def test_requests_of_a_client_that_leaves_are_dropped_and_others_answered(own: LiveServer, vanish: bool) -> None:
    with own.gates.closed("gather") as gate:
        (computing,) = own.occupy(gate, gather(0))
        with own.connect() as channel:
            method = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            talk = Conversation(method, gather(1), gather(2))
            own.wait_until_queued("gather", 2)
            stays = own.begin(gather(3))
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
        (computing,) = own.occupy(gate, gather(0))
        talk = opened(own, gather(1), gather(2), timeout=0.5)
        assert talk.end()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        own.wait_until_queued("gather", 0)
        gate.open()
        assert computing.result()
    assert own.statistics("gather").inference_count == 1


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
        assert message.startswith("the server is stopping; send the unanswered requests on a new stream")
        stopping.join(TIMEOUT)  # the server stops without waiting for clients that only receive
        assert not stopping.is_alive()


def test_a_stream_that_has_sent_everything_ends_with_ok_at_a_stop(few: Path) -> None:
    """The server may read the end of the stream too late, so the test tries several times."""
    codes: list[grpc.StatusCode] = []
    while grpc.StatusCode.OK not in codes and len(codes) < 5:
        with live_server("grpc", few, instances=1) as own, own.gates.closed("gather") as gate:
            talk = opened(own, gather(1), None)
            gate.wait_until_computing()
            for _ in range(10):  # these calls usually arrive after the stream's end, on the same connection
                own.inference.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT)
            stopping = threading.Thread(target=own.server.stop, kwargs={"grace": 10 * TIMEOUT})
            stopping.start()
            gate.open()
            assert value_of(talk.receive()) == 10
            stopping.join(TIMEOUT)
            codes.append(talk.call.code())
    assert grpc.StatusCode.OK in codes


FATES: dict[str, tuple[pb.ModelInferRequest, list[float]]] = {
    "slow": (gather(3), [30]),
    "quick": (request("free_axis", x=np.full((1, 3), 2, np.float32)), [6]),
    "failing": (gather(99), []),
    "unknown": (request("nobody", x=index(1)), []),
}
"""Requests with different outcomes, each with the values of its answer."""
KNOWN = st.sampled_from(sorted(FATES)).map(FATES.__getitem__)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KNOWN | anything.map(lambda sent: (sent, None)), max_size=30))
def test_every_request_is_answered_once_in_its_place(
    own_whole: LiveServer, drawn: list[tuple[pb.ModelInferRequest, list[float] | None]]
) -> None:
    """One of the two models is slow, and some requests are wrong."""
    own_whole.gates.counted("gather").delay = 0.002
    sent = []
    for place, (one, _) in enumerate(drawn):
        sent.append(pb.ModelInferRequest())
        sent[-1].CopyFrom(one)
        sent[-1].id = str(place)
    answers = Conversation(own_whole.inference.ModelStreamInfer, *sent).finish()
    assert [answer.infer_response.id for answer in answers] == [str(place) for place in range(len(sent))]
    for answer, (_, expected) in zip(answers, drawn, strict=True):
        status = answer.infer_response.parameters["status"].string_param
        assert status in ("INVALID_ARGUMENT", "NOT_FOUND") if answer.error_message else status == ""
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        if expected is not None:
            assert [array.item() for array in outputs(answer.infer_response).values()] == expected
