"""Nothing that takes long over HTTP holds up other requests, whichever transport brings them."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.classification import image_preprocessing
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.transport.http import bodies
from hangtag.serving.server.transport.http.endpoints import classify
from hangtag.serving.server.transport.http.inference import answer_plan, infer_query
from hangtag.serving.server.transport.submission import LARGE_MESSAGE
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, index, request
from tests.kit.rest import Answer, Rest, as_http, tensor
from tests.serving.server.transport.http.test_classify import IMAGE, form

pytestmark = pytest.mark.slow

GZIP = {"content_encoding": "gzip"}
FILE = ('; filename="a.png"', IMAGE)
LARGE = request("text", text=np.array(["x" * LARGE_MESSAGE], np.object_))
LARGE_JSON = json.dumps({"inputs": [tensor("text", "BYTES", [1], ["x" * LARGE_MESSAGE])]})

SMALL_WITH_LARGE_ANSWER = json.dumps({"inputs": [tensor("shape", "INT64", [2], [128, 128])]})


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    models = tmp_path_factory.mktemp("some")
    for name in ("gather", "classifier", "text", "unbatched"):
        (models / name).symlink_to(repository / name)
    config = ServerConfig(models=models, port=0, http_port=0, model_control="explicit", load_model=("*",))
    onnx_models.publish(models, "filled", onnx_models.filled())
    with LiveServer(config) as live:
        yield live


def compressed(rest: Rest) -> Answer:
    path, body, headers = as_http(request("gather", index=index(1)))
    return rest.post(path, gzip.compress(body), **headers, content_encoding="gzip")


@pytest.mark.parametrize(
    ("owner", "blocking", "call"),
    [
        (image_preprocessing, "preprocess", lambda rest: rest.post("/v1/classify/classifier", IMAGE)),
        (image_preprocessing, "preprocess", lambda rest: rest.post("/v1/classify/classifier,text", IMAGE)),
        (bodies.zlib, "decompressobj", lambda rest: rest.post("/v1/classify", gzip.compress(IMAGE), **GZIP)),  # type: ignore[attr-defined]
        (classify, "_FormParser", lambda rest: form(rest, "/v1/classify/classifier", {"image": FILE})),
        (infer_query, "decompress", compressed),
        (infer_query, "parse_head", lambda rest: rest.post("/v2/models/text/infer", LARGE_JSON)),
        (infer_query.tensors, "from_raw", lambda rest: rest.infer(LARGE)),  # type: ignore[attr-defined]
        (answer_plan, "to_json", lambda rest: rest.post("/v2/models/text/infer", LARGE_JSON)),
        (answer_plan, "to_json", lambda rest: rest.post("/v2/models/filled/infer", SMALL_WITH_LARGE_ANSWER)),
        (ModelControl, "state", lambda rest: rest.get("/v2/models/stats")),
        (ModelControl, "state", lambda rest: rest.get("/metrics")),
        (ModelControl, "published", lambda rest: rest.post("/v2/repository/index")),
        (ModelControl, "load", lambda rest: rest.post("/v2/repository/models/classifier/load")),
        (ModelControl, "unload", lambda rest: rest.post("/v2/repository/models/unbatched/unload")),
    ],
)
def test_others_are_answered_while_a_request_takes_long(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, owner: Any, blocking: str, call: Callable[[Rest], Answer]
) -> None:
    entered, may_end = threading.Event(), threading.Event()
    original = getattr(owner, blocking)

    def block(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("pool-"):  # the test's own
            return original(*arguments, **options)
        entered.set()
        assert may_end.wait(TIMEOUT)
        return original(*arguments, **options)

    with (
        Rest(server.server.http_address) as rest,
        Rest(server.server.http_address) as other,
        futures.ThreadPoolExecutor() as pool,
    ):
        sent = request("gather", index=index(1))
        other.infer(sent)  # its head is known from here on, so it does not meet what blocks
        monkeypatch.setattr(owner, blocking, block)
        slow = pool.submit(call, rest)
        try:
            assert entered.wait(TIMEOUT)
            assert other.get("/v2/health/ready").json == {"ready": True}
            assert not slow.done()
        finally:
            may_end.set()
        assert slow.result(TIMEOUT).status == 200
