"""An export that is killed leaves a repository that serves: the old state or the new one."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.client import Client
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.training.data.fashion_mnist import Split
from tests.export.exported import Exported
from tests.export.publishing import latest_served, publish_content, publisher

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("gate", ["half written", "written"])
@pytest.mark.parametrize("name", ["lstm", "other"])
def test_a_kill_leaves_a_repository_that_serves(
    lstm: Exported, garments: Split, tmp_path: Path, name: str, gate: str
) -> None:
    """Killed while it publishes a model's second version, and while it publishes a model's first beside another."""
    first = publish_content(tmp_path, "lstm", lstm.file.read_bytes())
    with publisher(tmp_path, name, lstm.file, gate) as process:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.rglob(".publishing-*"))  # it was killed in the middle
    assert (first / "model.onnx").read_bytes() == lstm.file.read_bytes()

    with (
        Server(ServerConfig(models=tmp_path, port=0, http_port=-1, provider="cpu")) as server,
        Client(server.address) as client,
    ):
        assert client.models() == ["lstm"]
        answer = client.infer("lstm", {"image": garments.images[:1]})
        assert np.isfinite(answer["logits"]).all()

    version = 2 if name == "lstm" else 1
    assert publish_content(tmp_path, name, "afterwards").name == str(version)
    assert not list(tmp_path.rglob(".publishing-*"))  # the next export removes leftovers


def test_the_staging_folder_of_a_running_export_is_not_removed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("theirs")
    models = tmp_path / "models"
    with publisher(models, "cnn", source, "half written") as process:
        assert publish_content(models, "lstm", "ours").name == "1"
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.wait() == 0
    assert (models / "cnn/1/model.onnx").read_text() == "theirs"


def test_without_file_locks_publishing_works_and_removes_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    (tmp_path / ".publishing-theirs").mkdir()
    assert publish_content(tmp_path, "cnn", "ours") == tmp_path / "cnn/1"
    assert (tmp_path / ".publishing-theirs").is_dir()


KILLED = """
import os, signal, sys
from pathlib import Path
from hangtag.export.repository.publishing import publish

moment, steps = int(sys.argv[1]), 0

def kill_at(event, arguments):
    global steps
    if event.partition(".")[0] in ("os", "shutil", "tempfile", "fcntl", "open", "pathlib"):
        steps += 1
        if steps == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at)
with publish(Path(sys.argv[2]), "cnn") as publication:
    publication.model_file.write_text("new")
"""


@pytest.mark.parametrize("there", [0, 1])
def test_a_kill_before_any_step_leaves_the_old_state_or_the_new(tmp_path: Path, there: int) -> None:
    """Before every call of the operating system that raises an audit event: open, mkdir, chmod, rename and so on."""
    outcomes = []
    for moment in range(1, 200):
        models = tmp_path / str(moment)
        publish_content(models, "lstm", "beside it")
        for _ in range(there):
            publish_content(models, "cnn", "old")
        before = latest_served(models)
        command = [sys.executable, "-c", KILLED, str(moment), str(models)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = latest_served(models)
        assert after in (before, before | {"cnn": there + 1})
        if after != before:
            assert (models / "cnn" / str(there + 1) / "model.onnx").read_text() == "new"
        if there:
            assert (models / "cnn/1/model.onnx").read_text() == "old"
        assert publish_content(models, "cnn", "next").name == str(after.get("cnn", 0) + 1)
        outcomes.append(after != before)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.returncode == 0  # every moment was tried
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 5
