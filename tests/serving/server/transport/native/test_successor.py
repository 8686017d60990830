"""A model that is replaced or unloaded while calls are on their way to it, or after they were."""

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.loading import load_model
from hangtag.serving.server.engine.repository import versions
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import UnavailableError
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, Gate, LiveServer, index, outputs, request
from tests.serving.server.parts import Caller

SENT = request("gather", index=index(2))


@pytest.fixture
def native(repository: Path) -> Iterator[LiveServer]:
    config = ServerConfig(
        models=repository, port=0, http_port=-1, max_batch_size=4, max_queue_size=8, instances=1, transport="native"
    )
    with LiveServer(config) as live:
        yield live


def replace_at_the_next_call(live: LiveServer) -> ServedModel:
    """The successor of ``gather``, which takes its place after the next call looked the old one up."""
    engine = live.server._engine
    old, new = live.model("gather"), load_model(versions(engine.config.models, "gather")[0], engine.config)

    def put(*_: object, **__: object) -> None:
        engine.serve("gather", [new])
        old.close()
        raise UnavailableError("closed meanwhile")

    old.batcher.put = put  # type: ignore[method-assign]
    return new


@pytest.mark.parametrize("known", [False, True], ids=["parsed", "a template"])
def test_a_call_that_meets_a_closed_model_is_answered_by_its_successor(native: LiveServer, known: bool) -> None:
    if known:
        assert native.infer(SENT)["value"].tolist() == [20]
    new = replace_at_the_next_call(native)
    assert native.infer(SENT)["value"].tolist() == [20]
    assert native.model("gather") is new
    assert new.statistics.snapshot().inference_count == 1


def test_a_query_that_went_on_to_the_successor_is_cancelled_there(native: LiveServer) -> None:
    new = replace_at_the_next_call(native)
    first = Caller()
    new.submit({"index": index(1)}, {"index": "INT64"}, first)
    busy = new.batcher.take()
    gate = Gate(new)
    call = native.inference.ModelInfer.future(SENT, timeout=TIMEOUT)
    gate.wait_until_queued()
    call.cancel()
    gate.wait_until_cancelled()
    assert len(new.batcher) == 0
    gate.open()
    new.execute(busy)
    assert first.answer.outputs["value"].tolist() == [10]
    assert gate.batch_sizes == [1]
    assert outputs(native.inference.ModelInfer(SENT, timeout=TIMEOUT))["value"].tolist() == [20]


@pytest.mark.parametrize("known", [False, True], ids=["parsed", "a template"])
def test_a_call_to_a_route_that_has_a_closed_member_is_answered_by_the_successor(tmp_path: Path, known: bool) -> None:
    """A poll serves routes anew after the last model that it loads, which may be long after the first one is closed."""
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "route").mkdir()
    (tmp_path / "route/route.toml").write_text("split = {gather = 100}")
    config = ServerConfig(models=tmp_path, port=0, http_port=-1, instances=1, transport="native")
    sent = request("route", index=index(2))
    with LiveServer(config) as live:
        old, new = live.model("gather"), load_model(versions(tmp_path, "gather")[0], config)
        if known:
            assert live.infer(sent)["value"].tolist() == [20]
        live.server._engine.serve("gather", [new])
        old.close()
        for _ in range(2):
            assert live.infer(sent)["value"].tolist() == [20]
        assert new.statistics.snapshot().inference_count == 2


@pytest.mark.parametrize("calls", [0, 1, 20])
def test_an_unloaded_model_is_gone_with_its_memory(tmp_path: Path, transport: str, calls: int) -> None:
    for name in ("gather", "free_axis"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)())
    config = ServerConfig(
        models=tmp_path,
        port=0,
        http_port=-1,
        model_control="explicit",
        load_model=("*",),
        transport=transport,
        limits=Limits(linger_seconds=0),
    )
    with LiveServer(config) as live:
        for _ in range(calls):
            assert live.infer(SENT)["value"].tolist() == [20]
        gone = threading.Event()
        model = weakref.ref(live.model("gather").runtime, lambda _: gone.set())
        unload = pb.RepositoryModelUnloadRequest(model_name="gather")
        live.inference.RepositoryModelUnload(unload, timeout=TIMEOUT)
        assert gone.wait(TIMEOUT), model()  # without the garbage collector's help
        assert live.infer(request("free_axis", x=np.ones((1, 2), np.float32)))["total"].tolist() == [[2]]
