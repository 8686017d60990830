"""Files of a few bytes that would decode to gigabytes, and large pictures that would delay callers with small ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.live import LiveServer, failure, request
from tests.kit.picture_files import chunk, png, tiny_file_of_50_million_rows
from tests.kit.rest import Rest
from tests.kit.target import Attacked
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.slow

MIB = 1 << 20
CLASSIFY = "/hangtag.v1.Classifier/Classify"
LONGEST_WAIT = 2.0
"""The longest permitted wait in seconds. A picture of 50 million rows once delayed every caller by four seconds."""
SMALL = (Path(__file__).parents[4] / "examples/garments/dress-1.png").read_bytes()
REFUSAL = (
    "the image has 1 x 50000000 pixels; the limit is 50,000,000 pixels, and 16,384 pixels for an edge. "
    "Scale the image down."
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.publish_all(tmp_path_factory.mktemp("models"), "classifier", "two_inputs")


@pytest.fixture(params=["native", "grpc"])
def attacked(request: pytest.FixtureRequest, models: Path) -> Iterator[Attacked]:
    with serving("--models", str(models), "--port", "0", "--transport", request.param) as server:
        target = Attacked(server, request.param)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _answers_afterwards() -> None:
    """Overrides the fixture in conftest.py, whose server has other models."""


def test_pictures_of_50_million_rows_are_refused_and_hold_up_nobody(attacked: Attacked) -> None:
    bomb = tiny_file_of_50_million_rows()
    message = pb.ClassifyRequest(model_name="classifier", encoded=bomb).SerializeToString()
    sent = request("two_inputs", a=np.ones((1, 3), np.float32), b=np.ones((1, 3), np.int64))
    attacked.require_answer()
    before = attacked.memory()

    def over_grpc() -> tuple[grpc.StatusCode, str]:
        return failure(lambda: attacked.call(CLASSIFY, message))

    def over_http() -> tuple[grpc.StatusCode, str]:
        with Rest(attacked.http_address) as rest:
            answer = rest.post("/v1/classify/classifier", bomb)
        assert answer.status == 400
        return grpc.StatusCode.INVALID_ARGUMENT, answer.error

    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(call) for call in [over_grpc, over_http] * 3]

        def all_end_while_others_are_answered() -> bool:
            attacked.inference.ModelInfer(sent, timeout=LONGEST_WAIT)
            return all(call.done() for call in calls)

        until(all_end_while_others_are_answered)
    assert [call.result() for call in calls] == [(grpc.StatusCode.INVALID_ARGUMENT, REFUSAL)] * 6
    assert attacked.most_memory() - before < 30 * MIB
    assert attacked.failures() == []


def test_pillow_prints_no_warning_of_a_malformed_part_of_a_picture(attacked: Attacked) -> None:
    part = chunk(b"acTL", bytes(8))  # an animation without frames
    picture = SMALL[:33] + part + SMALL[33:]
    attacked.call(CLASSIFY, pb.ClassifyRequest(model_name="classifier", encoded=picture).SerializeToString())
    attacked.require_answer()
    assert not [line for line in attacked.log() if "APNG" in line]


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_small_pictures_are_answered_while_large_ones_wait_for_memory_and_those_of_callers_who_leave_are_not_decoded(
    models: Path, transport: str
) -> None:
    large = png(6000, 4000, 16, 0)
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, transport=transport)) as live:

        def send(picture: bytes) -> Any:
            message = pb.ClassifyRequest(model_name="classifier", encoded=picture)
            return live.classifier.Classify.future(message, timeout=TIMEOUT)

        with (
            EncodedImage(large).decoded(1),
            EncodedImage(large).decoded(1),
        ):  # This process, which also runs the server, has no memory left for large pictures.
            waiting = [send(large) for _ in range(6)]  # There are more pictures than threads.
            for _ in range(3):
                assert len(send(SMALL).result().labels) == 3
                with Rest(live.server.http_address) as rest:
                    assert rest.post("/v1/classify/classifier", SMALL).status == 200
            assert not any(call.done() for call in waiting)
            for call in waiting[:3]:
                call.cancel()
            assert len(send(SMALL).result().labels) == 3
        assert all(len(call.result().labels) == 3 for call in waiting[3:])
        assert live.statistics("classifier").inference_count == 3 + 3 + 1 + 3
