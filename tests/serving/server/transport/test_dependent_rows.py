"""Models whose rows depend on each other: calls of several callers are not joined, although the axes permit it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit import dependent_rows, onnx_models
from tests.kit.live import LiveServer, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server

pytestmark = pytest.mark.slow

CALLERS = 32
CALLS = 10


def wrong_answers(live: LiveServer, name: str, file: Path) -> int:
    """How many of 320 calls by 32 callers get another answer than from a session of their own."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def call(caller: int) -> int:
        random = np.random.default_rng(caller)
        wrong = 0
        with live.caller() as infer:
            for _ in range(CALLS):
                x = random.normal(size=(2, dependent_rows.COLUMNS)).astype(np.float32)
                (expected,) = session.run(None, {"x": x})
                answer = outputs(infer(request(name, x=x)))["y"]
                wrong += not np.allclose(answer, expected, rtol=1e-4, atol=1e-9)
        return wrong

    with ThreadPoolExecutor(CALLERS) as pool:
        return sum(pool.map(call, range(CALLERS)))


@EVERY_TRANSPORT
@pytest.mark.parametrize("make", [*dependent_rows.MODELS, dependent_rows.distant_row])
def test_callers_do_not_change_each_others_answers(
    tmp_path: Path, transport: str, make: Callable[[], onnx.ModelProto]
) -> None:
    file = onnx_models.publish(tmp_path, "m", make())
    with live_server(transport, tmp_path) as live:
        assert wrong_answers(live, "m", file) == 0
        config = live.inference.ModelConfig(pb.ModelConfigRequest(name="m")).config
        assert config.max_batch_size == 0
        assert config.parameters["unbatched_because"].string_value.startswith("rows were tried alone and together: 'y'")


@EVERY_TRANSPORT
def test_a_model_whose_rows_are_independent_stays_batched(tmp_path: Path, transport: str) -> None:
    shape: tuple[int, onnx_models.Shape] = (onnx.TensorProto.FLOAT, ["batch", dependent_rows.COLUMNS])
    model = onnx_models.model([onnx.helper.make_node("Sin", ["x"], ["y"])], {"x": shape}, {"y": shape})
    file = onnx_models.publish(tmp_path, "m", model)
    with live_server(transport, tmp_path) as live:
        assert wrong_answers(live, "m", file) == 0
        statistics = live.statistics("m")
        assert statistics.execution_count < CALLERS * CALLS
        assert statistics.inference_count == 2 * CALLERS * CALLS
