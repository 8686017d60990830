"""--trial-load-seconds: a file that takes all memory or time at loading ends a child process, and not the server."""

import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hangtag.serving.model_repository import MODEL_FILE, ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import loading
from hangtag.serving.server.engine.repository import versions
from hangtag.serving.server.engine.trial.child import SPARE_SECONDS
from hangtag.serving.server.engine.trial.trial_load import TrialLoad
from hangtag.serving.server.errors import ControlError, ModelLoadError, UnavailableError
from tests.kit import onnx_models
from tests.kit import third_party_models as foreign_models
from tests.serving.server.engine.control.controlled import Start, add, spoil

pytestmark = pytest.mark.slow

MIB = 512
LARGER = 4096
"""MiB that the hostile file takes."""
SECONDS = 3.0
LONG = 60.0


def constant(side: int, products: int) -> onnx.ModelProto:
    """x FP32 [batch, 1] -> y: x plus the maximum of a matrix of this side to the power of this number.

    The file is small: ONNX Runtime makes the matrix when the model is warmed up.
    """
    nodes = [onnx.helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
    nodes += [onnx.helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(products)]
    nodes += [
        onnx.helper.make_node("ReduceMax", [f"m{products}"], ["most"], keepdims=0),
        onnx.helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    return onnx_models.model(
        nodes,
        {"x": (onnx.TensorProto.FLOAT, ["batch", 1])},
        {"y": (onnx.TensorProto.FLOAT, ["batch", 1])},
        {"shape": np.array([side, side], np.int64)},
    )


def publish_large(models: Path) -> None:
    onnx_models.publish(models, "hostile", constant(int((LARGER << 18) ** 0.5), 0))


def publish_slow(models: Path) -> None:
    onnx_models.publish(models, "hostile", constant(4096, 1000))


def publish_fatal(models: Path) -> None:
    onnx_models.publish(models, "hostile", foreign_models.fatal())


def publish_broken(models: Path) -> None:
    (models / "hostile/1").mkdir(parents=True)
    (models / "hostile/1" / MODEL_FILE).write_bytes(b"no model")


def most_memory() -> int:
    """The most bytes that this process has ever held."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) << 10


@pytest.mark.parametrize(
    ("publish", "seconds", "reason"),
    [
        (publish_large, LONG, "Failed to allocate memory"),
        (publish_slow, SECONDS, "--trial-load-seconds 3, --trial-load-mib 512): it takes longer"),
        (publish_fatal, LONG, "it ends the process (SIGABRT)"),
        (publish_broken, LONG, "model.onnx"),
    ],
)
def test_a_hostile_file_is_refused_with_the_reason_and_costs_the_server_nothing(
    models: Path, start: Start, publish: Callable[[Path], None], seconds: float, reason: str
) -> None:
    controlled = start("explicit", load_model=(), trial_load_seconds=seconds, trial_load_mib=MIB)
    publish(models)
    before = most_memory()
    with pytest.raises(ControlError, match=re.escape(reason)):
        controlled.control.load("hostile")
    assert most_memory() - before < MIB << 20
    assert controlled.served() == {}
    ((name, _, state),) = controlled.index()
    assert (name, state) == ("hostile", "UNAVAILABLE")


def test_polling_serves_files_that_pass_and_goes_on_with_those_from_before(models: Path, start: Start) -> None:
    controlled = start("poll", trial_load_seconds=LONG)
    assert controlled.served() == {"gather": ["1"], "text": ["1"]}
    add(models, "text", 2)
    spoil(models, "gather", 2)
    controlled.control.poll()
    assert controlled.served() == {"gather": ["1"], "text": ["2"]}


def test_a_stop_ends_a_trial(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=(), trial_load_seconds=LONG)
    publish_slow(models)
    errors: list[BaseException] = []

    def load() -> None:
        try:
            controlled.control.load("hostile")
        except UnavailableError as error:
            errors.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    ends = time.monotonic() + LONG
    trial = controlled.control._loader._trial
    assert trial is not None
    while trial._process is None:
        assert time.monotonic() < ends
    controlled.control.stop()
    loading.join(LONG / 2)
    assert not loading.is_alive()
    assert len(errors) == 1
    with pytest.raises(UnavailableError):
        controlled.control.load("gather")


def test_a_version_that_changes_during_its_trial_is_not_loaded(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the file that is loaded could be another than the one that was tried."""

    class Replaced(TrialLoad):
        def require_loadable(self, file: ModelFile) -> None:
            file.path.write_bytes(constant(1, 0).SerializeToString())

    def loaded(*_: object, **__: object) -> None:
        pytest.fail("the changed file was loaded")

    monkeypatch.setattr(loading, "Runtime", loaded)
    (file,) = versions(models, "gather")
    config = ServerConfig(models=models)
    with pytest.raises(ModelLoadError, match="changed while it was loaded"):
        loading.load_model(file, config, Replaced(config))


def test_the_child_process_ends_by_itself_if_the_server_does_not_end_it(models: Path) -> None:
    """A server that is killed leaves no process that computes for ever."""
    child = [sys.executable, "-m", "hangtag.serving.server.engine.trial.child", str(0.1 - SPARE_SECONDS), str(1 << 30)]
    publish_slow(models)
    (file,) = versions(models, "hostile")
    ended = subprocess.run(child, input=pickle.dumps((file, ServerConfig(models=models))), timeout=LONG)
    assert ended.returncode == -signal.SIGALRM
