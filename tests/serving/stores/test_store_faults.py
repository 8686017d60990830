"""Models are still served while their object store is slow or fails in any way."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.kit.command import Serving, invoke, last_line
from tests.kit.link import Link
from tests.kit.repository import Repository
from tests.kit.stores import ObjectStore, answer, swap, until_answer
from tests.kit.waiting import pass_time, until

pytest.importorskip("obstore", reason="the extra stores is not installed")
pytest.importorskip("moto", reason="moto is not installed")
pytestmark = pytest.mark.slow

AWAY = '"the copy of the model store cannot be updated; the previous models still serve"'
BACK = '"the copy of the model store is updated again"'
SECOND = np.float32(2).tobytes()
"""The constant in the file of version 2, as bytes."""
Fault = Callable[[Link], Callable[[bytes], bytes]]


def store_metrics(server: Serving) -> list[float]:
    """The time at which the copy last equalled the store, and the number of failed attempts to follow the store."""
    names = ("hangtag_store_last_success_timestamp_seconds ", "hangtag_store_errors_total ")
    return [float(line.split()[1]) for line in server.metrics().splitlines() if line.startswith(names)]


def late(data: bytes) -> bytes:
    pass_time(0.2)
    return data


def cut(link: Link) -> Callable[[bytes], bytes]:
    def alter(data: bytes) -> bytes:
        raise ConnectionResetError

    return alter


def silence(link: Link) -> Callable[[bytes], bytes]:
    """Keep connections open, but send nothing."""
    return lambda data: data if threading.Event().wait(10) else b""


def truncate(link: Link) -> Callable[[bytes], bytes]:
    """Send the file of version 2 only up to its constant, and then cut the connection."""

    def alter(data: bytes) -> bytes:
        before, constant, _ = data.partition(SECOND)
        if constant:
            threading.Timer(0.1, link.cut).start()
        return before

    return alter


def lie(link: Link) -> Callable[[bytes], bytes]:
    """Send the file of version 2 with another constant."""
    return swap(SECOND, np.float32(9).tobytes())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (cut, "the connection was cut"),
        (silence, "the store did not answer in time"),
        (truncate, "the connection was cut"),
        (lie, "/m/2/model.onnx does not match the store's index or listing"),
    ],
    ids=["cut", "silence", "truncate", "lie"],
)
def test_what_serves_goes_on_while_the_store_fails(
    store: ObjectStore, local: Repository, fault: Fault, reason: str
) -> None:
    store.push(local.folder)
    local.publish("m", 2)
    with store.server(silent_seconds=0.5 if fault is silence else 10) as server:
        assert answer(server) == 1
        store.link.alter = fault(store.link)
        store.push(local.folder)
        assert reason in server.wait_for(AWAY)
        last_success = store_metrics(server)[0]
        pass_time(0.5)
        assert answer(server) == 1
        assert store_metrics(server)[0] == last_success
        until(lambda: store_metrics(server)[1] > 1)
        store.link.alter = bytes
        until_answer(server, 2)
        server.wait_for(BACK)
        assert 0 < last_success < store_metrics(server)[0] <= time.time()
        assert len(server.wait_for_count(AWAY, 1)) == 1
        store.link.alter = fault(store.link)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_model_that_the_store_refuses_holds_up_no_other_model(
    web: ObjectStore, local: Repository, tmp_path: Path
) -> None:
    local.publish("bad")
    local.publish("removed")
    web.push(local.folder)
    with web.server() as server:
        assert answer(server) == answer(server, "removed") == 1
        web.status, web.failing = 403, "/bad/2/"
        local.publish("bad", 2)
        local.publish("m", 2)
        web.push(local.folder)
        until_answer(server, 2)
        assert "bad: https://" in server.wait_for(AWAY)
        index = tmp_path / "www/models/hangtag-index.json"
        document = json.loads(index.read_text())
        document["files"] = [file for file in document["files"] if not file["path"].startswith("removed/")]
        index.write_text(json.dumps(document))
        until(lambda: "\nremoved " not in web.run("list", "--models", web.url))
        assert answer(server, "bad") == 1
        web.status = 0
        until(lambda: answer(server, "bad") == 2)
        server.wait_for(BACK)


def test_a_server_that_polls_starts_without_a_model_that_fails(web: ObjectStore, local: Repository) -> None:
    local.publish("bad")
    web.push(local.folder)
    web.status, web.failing = 403, "/bad/1/"
    with web.server("--model-control", "none") as server:
        assert server.wait() == 1
    with web.server() as server:
        assert answer(server) == 1
        assert "bad: https://" in server.wait_for(AWAY)
        web.status = 0
        server.wait_for(BACK)
        invoke("health", "--server", server.address, "--model", "bad", "--wait", 10)
        assert answer(server, "bad") == 1


def test_a_model_that_cannot_be_written_holds_up_no_other_model(s3: ObjectStore, local: Repository) -> None:
    first, second = (local.folder / "m/1/model.onnx").read_bytes(), local.publish("m", 2).read_bytes()
    s3.put("bad/1/model.onnx", first)
    s3.put("m/1/model.onnx", first)
    with s3.server() as server:
        assert answer(server) == 1
        s3.put("bad/2/w", b"a file")
        s3.put("bad/2/w/x", b"a file in a folder of the same name")
        s3.put("bad/2/model.onnx", second)
        s3.put("m/2/model.onnx", second)
        until_answer(server, 2)
        assert "bad: a local file cannot be read or written" in server.wait_for(AWAY)
        assert answer(server, "bad") == 1


def test_an_unreachable_store_ends_an_update_at_the_first_model(s3: ObjectStore, local: Repository) -> None:
    local.publish("other")
    s3.push(local.folder)
    was_seen = threading.Event()

    def cut_from_version_2_on(data: bytes) -> bytes:
        if SECOND in data:
            was_seen.set()
        if was_seen.is_set():
            raise ConnectionResetError
        return data

    with s3.server() as server:
        assert answer(server) == answer(server, "other") == 1
        s3.link.alter = cut_from_version_2_on
        local.publish("m", 2)
        local.publish("other", 2)
        s3.push(local.folder)
        reason = server.wait_for(AWAY)
        assert f'"{s3.url}: ' in reason
        assert "other: " not in reason


@pytest.mark.parametrize("fault", [cut, silence])
def test_a_start_without_the_store_needs_a_copy(store: ObjectStore, local: Repository, fault: Fault) -> None:
    store.push(local.folder)
    store.link.alter = fault(store.link)
    with store.server(silent_seconds=0.5) as server:
        assert server.wait() == 1
    assert last_line("".join(server.log)).endswith("so nothing can be served.")
    store.link.alter = bytes
    with store.server("--model-control", "none") as server:
        assert answer(server) == 1
    store.link.alter = fault(store.link)
    with store.server("--model-control", "none", silent_seconds=0.5) as server:
        assert answer(server) == 1
        server.wait_for(AWAY)
    if fault is cut:  # a store that does not answer makes the command wait for a long time
        listed = store.run("list", "--models", store.url)
        assert listed.startswith(f"THIS IS AN EARLIER COPY, NOT THE STORE'S PRESENT CONTENT: {store.url}: ")
        assert "\nm " in listed


def test_a_copy_that_is_deleted_during_its_updates_is_fetched_again(
    s3: ObjectStore, local: Repository, tmp_path: Path
) -> None:
    def delete(data: bytes) -> bytes:
        shutil.rmtree(tmp_path / "cache/hangtag", ignore_errors=True)
        return data

    s3.push(local.folder)
    with s3.server() as server:
        assert answer(server) == 1
        s3.link.alter = delete
        until(lambda: store_metrics(server)[1] > 1)
        s3.link.alter = bytes
        local.publish("m", 2)
        s3.push(local.folder)
        until(lambda: any("model=m version=2 " in line for line in server.log))
        until_answer(server, 2)


def test_servers_share_a_copy_which_one_of_them_fetches(s3: ObjectStore, local: Repository) -> None:
    s3.push(local.folder)
    s3.link.alter = late  # the delay lets both servers begin before one has finished
    with s3.server() as one, s3.server("--workers", 2) as two, ThreadPoolExecutor() as both:
        assert list(both.map(answer, (one, two))) == [1, 1]
        local.publish("m", 2)
        s3.push(local.folder)
        until(lambda: answer(one) == answer(two) == 2)
        assert sum("fetched from the model store" in line for line in one.log + two.log) == 2
