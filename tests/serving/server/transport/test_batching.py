"""Which requests share a batch, for models of every kind. No caller gets another caller's rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.errors import StartError
from tests.kit import onnx_models, unbatchable_models
from tests.kit.live import LiveServer, failure, index, outputs, request
from tests.kit.over_http import OVER_GRPC, inference_over_http, live_server
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT


def together(own: LiveServer, name: str, sent: list[pb.ModelInferRequest]) -> tuple[list[Any], list[int]]:
    """Queue all requests while the first is computed. Return the answers, and the number of rows in each batch."""
    with own.gates.closed(name) as gate:
        calls = own.occupy(gate, *sent)
        gate.open()
        return [outputs(call.result()) for call in calls], gate.batch_sizes


def test_queued_calls_with_equal_shapes_share_a_batch_and_empty_ones_with_their_like(own: LiveServer) -> None:
    shapes = [(1, 1), (1, 1), (1, 2), (1, 1), (1, 0)]
    answers, batches = together(
        own, "free_axis", [request("free_axis", x=np.ones(each, np.float32)) for each in shapes]
    )
    assert [answer["total"].item() for answer in answers] == [1, 1, 2, 1, 0]
    assert batches == [1, 2, 1, 1]
    sent = [request("free_axis", x=np.ones((1, length), np.float32)) for length in (2, 0, 2, 0, 2)]
    answers, batches = together(own, "free_axis", sent)
    assert [answer["total"].tolist() for answer in answers] == [[[2]], [[0]], [[2]], [[0]], [[2]]]
    assert sorted(batches) == [1, 2, 2]


@OVER_GRPC
def test_calls_over_http_and_grpc_share_a_batch(few: Path, transport: str) -> None:
    with live_server(transport, few, http_port=0, max_batch_size=4, instances=1) as live:
        over_http = inference_over_http(live.server.http_address)
        with live.gates.closed("gather") as gate:
            calls = live.occupy(gate, request("gather", index=index(1)))
            for waiting, stub in enumerate((live.inference, over_http), start=1):
                calls.append(stub.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT))
                live.wait_until_queued("gather", waiting)
            gate.open()
            assert [outputs(call.result())["value"].item() for call in calls] == [10, 20, 20]
            assert gate.batch_sizes == [1, 2]


def test_a_model_with_carried_state_is_never_batched(own_whole: LiveServer) -> None:
    sent = [
        request("state", x=np.full((1, 3), n, np.float32), state=np.full((2, 1, 3), n, np.float32), scale=np.array(n))
        for n in range(4)
    ]
    answers, batches = together(own_whole, "state", sent)
    assert [answer["y"].tolist() for answer in answers] == [[[n * n + n] * 3] for n in range(4)]
    assert [answer["next_state"].tolist() for answer in answers] == [[[[2 * n] * 3]] * 2 for n in range(4)]
    assert batches == [1, 1, 1, 1]


def test_the_operator_can_forbid_batching(own_whole: LiveServer) -> None:
    config = own_whole.inference.ModelConfig(pb.ModelConfigRequest(name="two_inputs"), timeout=TIMEOUT).config
    assert config.max_batch_size == 0
    sent = [
        request("two_inputs", a=np.full((rows, 3), rows, np.float32), b=np.zeros((rows, 3), np.int64))
        for rows in (1, 1, 2, 99)
    ]
    answers, batches = together(own_whole, "two_inputs", sent)
    assert [len(answer["sum"]) for answer in answers] == batches == [1, 1, 2, 99]


def test_joined_requests_never_get_rows_that_are_not_theirs(own_whole: LiveServer) -> None:
    """An option wrongly allows batches of this model. Its batches fail, and their requests are computed one by one."""
    alone = own_whole.infer(request("not_a_batch_axis", x=np.array([1, 2], np.float32)))["y"]
    assert alone.tolist() == [1, 2, 1, 2]
    sent = [request("not_a_batch_axis", x=np.array([value], np.float32)) for value in range(3)]
    answers, _ = together(own_whole, "not_a_batch_axis", sent)
    assert [answer["y"].tolist() for answer in answers] == [[value, value] for value in range(3)]
    code, message = failure(lambda: own_whole.infer(request("not_a_batch_axis", x=np.ones(0, np.float32))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the first axis is the batch" in message


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda: onnx_models.doubled("unk__1", "unk__2"), 4),
        (lambda: onnx_models.doubled("batch", "Addy_dim_0"), 4),
        (lambda: onnx_models.doubled("rows", "rows"), 0),
        (lambda: onnx_models.doubled("rows", "rows", {"hangtag.batched": "true"}), 4),
        (lambda: onnx_models.doubled("batch", "batch", {"hangtag.batched": "false"}), 0),
    ],
    ids=["symbols of an exporter", "a lost symbol", "a doubt", "proven", "disproved"],
)
def test_the_models_file_decides_about_batching(tmp_path: Path, make: Callable[[], Any], limit: int) -> None:
    onnx_models.publish(tmp_path, "m", make())
    with live_server("native", tmp_path, max_batch_size=4, instances=1) as live:
        config = live.inference.ModelConfig(pb.ModelConfigRequest(name="m"), timeout=TIMEOUT).config
        assert config.max_batch_size == limit
        assert list(config.input[0].dims) == ([2] if limit else [-1, 2])
        answers, batches = together(live, "m", [request("m", x=np.full((1, 2), n, np.float32)) for n in range(3)])
        assert [answer["y"].tolist() for answer in answers] == [[[2 * n] * 2] for n in range(3)]
        assert batches == ([1, 2] if limit else [1, 1, 1])


def test_the_server_does_not_start_with_impossible_batching(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "m", onnx_models.unbatched())
    with (
        pytest.raises(StartError, match="the operator demands batching, but requests cannot be batched"),
        server(tmp_path, http_port=-1, model_max_batch_size=(("m", 8),)),
    ):
        pass


def test_a_model_whose_rows_depend_on_each_other_is_not_batched_and_says_why(tmp_path: Path) -> None:
    """All of these models have axes that allow batching, but only the one with independent rows is batched."""
    kinds = {make.__name__: make() for make in (*unbatchable_models.MODELS, unbatchable_models.distant_row)}
    kinds["independent"] = onnx_models.from_text("(float[batch, 3] x) => (float[batch, 3] y) { y = Sin(x) }")
    for name, model in kinds.items():
        onnx_models.publish(tmp_path, name, model)
    rows = np.random.default_rng(5).normal(size=(5, 2, unbatchable_models.COLUMNS)).astype(np.float32)
    with live_server("auto", tmp_path, instances=1) as live:
        for name in kinds:
            sent = [request(name, x=each) for each in rows]
            alone = [live.infer(each)["y"] for each in sent]
            answers, batches = together(live, name, sent)
            for answer, expected in zip(answers, alone, strict=True):
                np.testing.assert_allclose(answer["y"], expected, rtol=1e-4, atol=1e-9)
            config = live.inference.ModelConfig(pb.ModelConfigRequest(name=name), timeout=TIMEOUT).config
            if name == "independent":
                assert batches == [2, 8]
            else:
                assert (batches, config.max_batch_size) == ([2] * 5, 0)
                why = config.parameters["unbatched_because"].string_value
                assert why.startswith("a trial compared single rows and batches: 'y'")
