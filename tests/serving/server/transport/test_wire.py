"""ModelInfer on a real server: what is sent, and what is answered."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, index, number, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT

pytestmark = pytest.mark.slow

VALUES: dict[str, list[object]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-(2**7), 2**7 - 1],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [-1.5, 65504],
    "FP32": [np.inf, 2.0**-149],
    "FP64": [-np.inf, 1.7e308],
    "BYTES": [b"", "å\0b".encode()],
}


@EVERY_TRANSPORT
def test_a_classifiers_outputs(live: LiveServer) -> None:
    images = np.random.default_rng(3).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    sent = request("classifier", image=images)
    sent.id = "my own"
    response = live.inference.ModelInfer(sent, timeout=TIMEOUT)
    assert (response.model_name, response.model_version, response.id) == ("classifier", "12", "my own")
    answer = outputs(response)
    assert list(answer) == ["logits", "probabilities"]
    np.testing.assert_allclose(answer["logits"], onnx_models.logits_of(images), rtol=1e-4, atol=1e-4)


def test_the_shipped_model_answers(live: LiveServer) -> None:
    answer = live.infer(request("lstm", image=np.zeros((2, 28, 28), np.uint8)))
    assert answer["probabilities"].shape == (2, 10)
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-5)


def test_only_the_requested_outputs_are_returned_in_their_order(live: LiveServer) -> None:
    sent = request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
    for names in (["double"], ["double", "sum"], ["sum", "double"]):
        del sent.outputs[:]
        sent.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names)
        assert list(live.infer(sent)) == names


@EVERY_TRANSPORT
def test_several_inputs_go_by_name(live: LiveServer) -> None:
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.int64)
    for sent in (request("two_inputs", a=a, b=b), request("two_inputs", b=b, a=a)):
        answer = live.infer(sent)
        assert answer["sum"].tolist() == [[11, 22, 33]]
        assert answer["double"].tolist() == [[20, 40, 60]]
        assert answer["double"].dtype == np.int64


def raw(datatype: str, values: list[object]) -> tuple[pb.ModelInferRequest.InferInputTensor, bytes]:
    array = np.array([values], tensors.DTYPES[datatype])
    tensor = pb.ModelInferRequest.InferInputTensor(name=f"in_{datatype}", datatype=datatype, shape=[1, 2])
    return tensor, tensors.to_raw(array)


@EVERY_TRANSPORT
def test_every_datatype_goes_and_comes_as_raw_contents(live: LiveServer) -> None:
    pairs = [raw(datatype, values) for datatype, values in VALUES.items()]
    answer = live.infer(
        pb.ModelInferRequest(
            model_name="every_type",
            inputs=[tensor for tensor, _ in pairs],
            raw_input_contents=[contents for _, contents in pairs],
        )
    )
    assert {name.removeprefix("out_"): array.ravel().tolist() for name, array in answer.items()} == VALUES


def test_typed_contents_give_what_raw_contents_give(live: LiveServer) -> None:
    a = pb.InferTensorContents(fp32_contents=[1, 2, 3])
    b = pb.InferTensorContents(int64_contents=[10, 20, 30])
    answer = live.infer(
        pb.ModelInferRequest(
            model_name="two_inputs",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name="a", datatype="FP32", shape=[1, 3], contents=a),
                pb.ModelInferRequest.InferInputTensor(name="b", datatype="INT64", shape=[1, 3], contents=b),
            ],
        )
    )
    assert answer["sum"].tolist() == [[11, 22, 33]]


def test_text_is_utf8_both_ways(live: LiveServer) -> None:
    words = ["", "grön", "日本\0", "x" * 100_000]
    answer = live.infer(request("text", text=np.array(words, np.object_)))
    assert [word.decode() for word in answer["shouted"]] == [word + "!" for word in words]
    contents = pb.InferTensorContents(bytes_contents=[b"b", b"a"])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[2], contents=contents)
    answer = live.infer(pb.ModelInferRequest(model_name="text", inputs=[tensor]))
    assert answer["shouted"].tolist() == [b"b!", b"a!"]


@EVERY_TRANSPORT
def test_a_model_without_a_batch_axis(live: LiveServer) -> None:
    answer = live.infer(request("unbatched", x=np.array([1, 2, 3, 4], np.float32)))
    assert answer["y"].tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize("length", [1, 5, 1000])
def test_other_free_axes_take_any_size(live: LiveServer, length: int) -> None:
    answer = live.infer(request("free_axis", x=np.ones((3, length), np.float32)))
    assert answer["total"].tolist() == [[length]] * 3


@EVERY_TRANSPORT
def test_the_statistics_count_answered_requests(own: LiveServer) -> None:
    own.infer(request("gather", index=index(1, 2, 3)))
    own.infer(request("gather", index=index(1)))
    statistics = own.statistics("gather")
    assert (statistics.name, statistics.version) == ("gather", "1")
    assert (statistics.inference_count, statistics.execution_count) == (4, 2)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (2, 0)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [(1, 1), (3, 1)]
    assert statistics.last_inference > 0
    everyone = own.inference.ModelStatistics(pb.ModelStatisticsRequest())
    assert len(everyone.model_stats) == 4


def together(calls: list[Callable[[], None]]) -> None:
    """Run all calls at once; the first failure is raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        try:
            barrier.wait(TIMEOUT)
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failures:
        raise failures[0]


@EVERY_TRANSPORT
def test_many_callers_at_once_get_each_their_own_answers(live: LiveServer) -> None:
    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(15):
            images = random.integers(0, 256, (random.integers(1, 5), 28, 28), dtype=np.uint8)
            answer = live.infer(request("classifier", image=images))
            np.testing.assert_allclose(answer["logits"], onnx_models.logits_of(images), rtol=1e-4, atol=1e-4)
            length, value = int(random.integers(1, 4)), float(random.integers(100))
            total = live.infer(request("free_axis", x=np.full((1, length), value, np.float32)))["total"]
            assert total.tolist() == [[length * value]]

    before = live.statistics("classifier").execution_count
    together([lambda seed=seed: ask(seed) for seed in range(24)])  # type: ignore[misc]
    assert live.statistics("classifier").execution_count - before < 24 * 15  # some shared a batch


@EVERY_TRANSPORT
def test_queued_calls_with_equal_shapes_share_a_batch(own: LiveServer) -> None:
    with own.gate("free_axis") as gate:
        first = own.inference.ModelInfer.future(request("free_axis", x=number(1)), timeout=TIMEOUT)
        gate.wait_until_queued()
        gate.wait_until_computing()
        shapes = [(1, 1), (1, 2), (1, 1), (1, 2)]
        waiting = []
        for rows, length in shapes:
            sent = request("free_axis", x=np.ones((rows, length), np.float32))
            waiting.append(own.inference.ModelInfer.future(sent, timeout=TIMEOUT))
            gate.wait_until_queued()
        gate.open()
        assert outputs(first.result())["total"].tolist() == [[1]]
        assert [outputs(call.result())["total"].item() for call in waiting] == [1, 2, 1, 2]
        assert gate.batch_sizes == [1, 2, 2]


def test_every_answer_has_its_cost(live: LiveServer) -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    _, call = live.inference.ModelInfer.with_call(request("classifier", image=images), timeout=TIMEOUT)
    cost = {key: int(value) for key, value in call.trailing_metadata()}
    assert set(cost) == {"hangtag-queue-ns", "hangtag-compute-ns", "hangtag-batch-size"}
    assert cost["hangtag-batch-size"] == 3
    assert cost["hangtag-compute-ns"] > 0
    assert cost["hangtag-queue-ns"] >= 0
