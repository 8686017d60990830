"""With --trial-load-seconds, a file that takes too much memory or time to load ends a child process, not the server."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from hangtag import Client, ClientError
from tests.kit import memory, onnx_models, unbatchable_models
from tests.kit.command import serving
from tests.kit.kinds import message_of
from tests.kit.repository import Repository
from tests.kit.waiting import until

pytestmark = pytest.mark.slow

MIB = 512
LARGER = 4096
"""The memory in MiB that the hostile file needs."""
LONG = 60.0


def large(mib: int) -> onnx.ModelProto:
    """A model x FP32 [batch, 1] -> y. Its file is small, but warming it up takes this many MiB."""
    return onnx_models.from_text(
        f"""(float[batch, 1] x) => (float[batch, 1] y) <int64[2] shape = {{{mib}, {1 << 18}}}> {{
            matrix = ConstantOfShape(shape)
            most = ReduceMax <keepdims = 0> (matrix)
            y = Add(x, most)
        }}"""
    )


def endless() -> onnx.ModelProto:
    """The model ``slow`` with a loop that never ends, whatever the input is."""
    model = onnx_models.slow()
    model.graph.node[0].input[0] = "endless"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1 << 62]), "endless"))
    return model


def trials(server: int) -> list[int]:
    """The ids of the child processes in which this server tries to load models."""
    children = " ".join(file.read_text() for file in Path(f"/proc/{server}/task").glob("*/children")).split()
    return [int(child) for child in children if b"trial" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(process: int) -> bool:
    """Return True if the process exists and has not ended."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and not re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("model", "seconds", "reason"),
    [
        pytest.param(large(LARGER), LONG, "Failed to allocate memory", id="large"),
        pytest.param(endless(), 3.0, "loading takes longer", id="slow"),
        pytest.param(unbatchable_models.aborting(), LONG, "SIGABRT", id="fatal"),
    ],
)
def test_a_hostile_file_is_refused_with_the_reason_and_costs_the_server_nothing(
    repository: Repository, model: onnx.ModelProto, seconds: float, reason: str
) -> None:
    running = repository.start("explicit", trial_load_seconds=seconds, trial_load_mib=MIB)
    repository.publish("hostile", model=model)
    before = memory.most_held()
    problem = message_of(grpc.StatusCode.FAILED_PRECONDITION, running.client.load_model, "hostile")
    assert reason in problem
    assert f"--trial-load-seconds {seconds:g}, --trial-load-mib {MIB}" in problem
    assert memory.most_held() - before < MIB << 20
    assert running.index() == [("hostile", 1, "UNAVAILABLE")]


def test_a_version_that_changes_during_its_trial_is_not_loaded(repository: Repository) -> None:
    """The server must not load a different file than the one that it tried."""

    loaded: list[object] = []
    file = repository.publish("hostile")
    running = repository.start("explicit", trial_load_seconds=LONG, on_load=loaded.append)
    call = running.in_thread(lambda: running.client.load_model("hostile"))
    until(lambda: trials(os.getpid()))
    (trial,) = trials(os.getpid())
    os.kill(trial, signal.SIGSTOP)
    file.write_bytes(onnx_models.shifted(2).SerializeToString())
    os.kill(trial, signal.SIGCONT)
    assert "changed while it was loaded" in message_of(grpc.StatusCode.FAILED_PRECONDITION, call.result)
    assert loaded == []


def test_a_stop_ends_a_trial(repository: Repository) -> None:
    repository.publish("hostile", model=endless())
    running = repository.start("explicit", trial_load_seconds=LONG)
    call = running.in_thread(lambda: running.client.load_model("hostile"))
    until(lambda: trials(os.getpid()))
    began = time.monotonic()
    running.server.stop(grace=LONG)
    assert time.monotonic() - began < LONG / 2
    assert message_of(grpc.StatusCode.UNAVAILABLE, call.result)
    assert trials(os.getpid()) == []


def test_a_trial_ends_by_itself_if_its_server_was_killed(repository: Repository) -> None:
    """Without a time limit of its own, the trial would compute for ever."""
    repository.publish("hostile", model=endless())
    options = ("--port", "0", "--model-control", "explicit", "--trial-load-seconds", "1")
    with (
        serving("--models", str(repository.folder), *options) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        call = caller.submit(client.load_model, "hostile")
        until(lambda: trials(server.process.pid))
        (trial,) = trials(server.process.pid)
        server.signal(signal.SIGKILL)
        assert isinstance(call.exception(), ClientError)
        try:
            assert is_running(trial)
            until(lambda: not is_running(trial))
        finally:
            with suppress(ProcessLookupError):
                os.kill(trial, signal.SIGKILL)
