"""``hangtag top`` with a real server: once over each protocol, and in a terminal until Ctrl-C."""

import json
import os
import re
import signal
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hangtag import Client
from tests.kit import forkserver, onnx_models
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.command import environment, invoke, refusal, serving
from tests.kit.other_servers import refusing, web_server
from tests.kit.server import server as running_server

ONCE = ("top", "--once", "--interval", "0.1", "--server")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses that a server process logs, by the names in the log. The server has two models and a cascade."""
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), "gather", "text")
    for name in ("first", "second"):
        onnx_models.publish(models, name, onnx_models.classifier())
    accept = 'accept = {output = "probabilities", at_least = 1}'
    onnx_models.publish_route(models, "unsure", f'cascade = ["first", "second"]\n{accept}')
    with serving("--models", str(models), "--port", "0") as process:
        line = f"{process.wait_for('ready')} {process.wait_for('metrics')}"
        yield dict(re.findall(r"\b(address|http|url|transport)=(\S+)", line))


@pytest.fixture
def work(addresses: dict[str, str], garment: Path) -> Iterator[None]:
    """During a test, alternately call a model with two samples and a cascade with one image."""
    ended = threading.Event()

    def call() -> None:
        with Client(addresses["address"]) as client:
            while not ended.is_set():
                client.infer("gather", {"index": np.array([1, 2])})
                client.classify(garment.read_bytes(), "unsure")

    with ThreadPoolExecutor() as pool:
        working = pool.submit(call)
        yield
        ended.set()
        working.result()


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("http", "metrics_at"), [(False, ""), (False, "metrics port"), (True, "HTTP port")], ids=["plain", "gRPC", "HTTP"]
)
def test_a_look_at_a_server(addresses: dict[str, str], http: bool, metrics_at: str) -> None:
    url = f"http://{addresses['http']}"
    address = url if http else addresses["address"]
    metrics = {"metrics port": addresses["url"], "HTTP port": f"{url}/metrics"}.get(metrics_at)
    options = ("--interval", "0.4", *(("--metrics", metrics) if metrics else ()))
    shown = [invoke(*ONCE, address, *form, *options) for form in (["--json"], [])]
    assert [each.stderr for each in shown] == ["", ""]
    interval, table = json.loads(shown[0].stdout), shown[1].stdout
    rows = {model["model"]: model for model in interval["models"]}
    assert list(rows) == ["first", "gather", "second", "text", "unsure"]
    gather, unsure = rows["gather"], rows["unsure"]
    assert gather["calls"] > 0
    assert gather["samples"] * interval["seconds"] == pytest.approx(2 * gather["calls"] * interval["seconds"], abs=4)
    assert unsure["calls"] * interval["seconds"] == pytest.approx(gather["calls"] * interval["seconds"], abs=3)
    assert (gather["failures"], rows["text"]["calls"]) == (0, 0)
    assert [line.split()[0] for line in table.splitlines() if " 1 " in line][-5:] == list(rows)
    assert table.startswith(address)
    assert ("p99" in table) is bool(metrics)
    if metrics:
        assert interval["transports"] == {addresses["transport"]: 1}
        assert interval["routes"] == {
            "unsure": {"first": pytest.approx(1, abs=0.5), "second": pytest.approx(1, abs=0.5)}
        }
        assert 0 < gather["p50_ms"] <= gather["p99_ms"]
        assert (gather["batch_size"], gather["max_queue_size"]) == (pytest.approx(2, abs=0.5), 256)
        assert "workers 1/1   transport " in table
        assert "of its samples" in table


def test_what_cannot_be_watched_is_one_line(addresses: dict[str, str]) -> None:
    with refusing() as free, web_server(lambda _: (401, {}, b"")) as secret:
        for server, metrics, fact in (
            (free, "", f"no server answers at {free}"),
            (f"http://{free}", "", f"no server answers at http://{free}"),
            (addresses["address"], f"http://{free}/metrics", f"no metrics at http://{free}/metrics: "),
            (addresses["address"], f"http://{addresses['address']}/metrics", "the server's port for metrics"),
            (addresses["address"], "http://127.0.0.1:99999/metrics", "'http://127.0.0.1:99999' is not a server's URL"),
            (addresses["address"], f"http://{secret}/metrics", "answered 401. Give --metrics"),
            (addresses["address"], "file:///etc/passwd", "'file:///etc/passwd'"),
        ):
            assert fact in refusal(*ONCE, server, *(("--metrics", metrics) if metrics else ()), alone=True)


def test_metrics_behind_tls_and_a_token(models: Path, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    options = ("--tls-ca", str(certificates.ca()), "--token-file", str(tmp_path / "token"))
    with running_server(models, token_file=tmp_path / "token", **certificates.server()) as server:
        metrics = f"https://{server.http_address}/metrics"
        assert "workers 1/1" in invoke(*ONCE, server.address, "--metrics", metrics, *options).stdout


@pytest.mark.usefixtures("work")
def test_the_live_view_ends_with_ctrl_c(addresses: dict[str, str]) -> None:
    person, program = os.openpty()
    termios.tcsetwinsize(program, (24, 60))
    terminal = f"os.open({os.ttyname(program)!r}, os.O_RDWR)"
    first = f"import os, sys; [os.dup2({terminal}, number) for number in range(3)]; sys.stdin = open(0)"
    arguments = ["top", "--server", addresses["address"], "--interval", "0.1"]
    seen = b""
    with forkserver.hangtag(arguments, variables=environment(TERM="xterm", COLUMNS="60"), first=first) as process:
        while seen.count(b"gather") < 3:
            seen += os.read(person, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    os.close(person)
    os.close(program)
