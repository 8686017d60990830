"""Files that link out of the repository, cannot be read, change while they are read, or need too much memory."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import onnx
import onnxruntime
import pytest
import structlog.testing

from hangtag.errors import UserError
from hangtag.serving.server.errors import ModelLoadError
from tests.kit import onnx_file, onnx_models
from tests.kit.kinds import message_of
from tests.kit.repository import Repository

SECRET = 'password = "hunter2"'
OTHERS = {"one": [1], "two": [1]}
SMALL_FILES = ["promoted.toml", "route.toml", "serving.toml"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside the repository, with a model and a secret."""
    folder = Repository(tmp_path / "elsewhere")
    folder.publish("model")
    (folder.folder / "secret").write_text(SECRET)
    return folder.folder


@pytest.mark.parametrize("link", ["1/model.onnx", "1", *SMALL_FILES])
def test_a_link_out_of_the_repository_is_not_followed_and_reveals_nothing(
    repository: Repository, elsewhere: Path, link: str
) -> None:
    if link in ("promoted.toml", "serving.toml"):
        repository.publish("linked")
    place = repository.folder / "linked" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere / ("secret" if link in SMALL_FILES else f"model/{link}"))
    with structlog.testing.capture_logs() as log:
        running = repository.start("poll")
    messages = str(log + running.poll())
    assert running.served() == OTHERS
    assert "out of the repository" in messages
    assert not [secret for secret in ("password", str(elsewhere)) if secret in messages + str(running.server.state())]
    if link != "route.toml":
        with pytest.raises(UserError, match="out of the repository"):
            repository.start("none")


def test_the_folder_of_a_model_and_the_repository_may_be_links(repository: Repository, elsewhere: Path) -> None:
    (repository.folder / "linked").symlink_to(elsewhere / "model")
    whole = elsewhere / "whole"
    whole.symlink_to(repository.folder)
    assert repository.start("none", models=whole).served() == {"linked": [1], **OTHERS}


def test_files_that_kubernetes_mounts_are_served_and_their_change_is_seen(repository: Repository) -> None:
    """Each file is a link into ``..data``. Kubernetes replaces ``..data``, which is itself a link to a dated folder."""

    def mount(folder: Path, date: str, name: str, content: bytes) -> None:
        (folder / f"..{date}").mkdir()
        (folder / f"..{date}" / name).write_bytes(content)
        (folder / "..next").symlink_to(f"..{date}")
        (folder / "..next").rename(folder / "..data")

    file = repository.folder / "one/1/model.onnx"
    content = file.read_bytes()
    file.unlink()
    mount(file.parent, "2026_11_26", file.name, content)
    file.symlink_to(f"..data/{file.name}")
    settings = repository.folder / "one/serving.toml"
    mount(settings.parent, "2026_11_26", settings.name, b"max_queue_size = 300")
    settings.symlink_to(f"..data/{settings.name}")
    running = repository.start("poll")
    assert (running.answer("one"), running.state("one").max_queue_size) == (1, 300)
    mount(settings.parent, "2026_11_27", settings.name, b"max_queue_size = 301")
    running.poll()
    assert running.state("one").max_queue_size == 301


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32),
    reason="only a current ONNX Runtime checks the paths of external data",
)
@pytest.mark.parametrize("location", ["absolute", "above", "linked"])
def test_weights_outside_of_the_folder_are_not_read(repository: Repository, elsewhere: Path, location: str) -> None:
    """The model would answer with the bytes of the secret file, so any caller could read them."""
    secret, folder = elsewhere / "secret", repository.folder / "leak/1"
    folder.mkdir(parents=True)
    (folder / "linked").symlink_to(secret)
    where = {"absolute": str(secret), "above": os.path.relpath(secret, folder), "linked": "linked"}[location]
    model = onnx_file.with_external_weights(where, onnx.TensorProto.UINT8, 16)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    running = repository.start("explicit")
    assert "External data path" in message_of(grpc.StatusCode.FAILED_PRECONDITION, running.client.load_model, "leak")


UNREADABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nested without end": (lambda file: file.write_bytes(b"max_queue_size = " + b"[" * 100_000), "recursion"),
    "too large": (lambda file: file.write_bytes(b"# " + b"x" * (2 << 20)), "more than 1,048,576 bytes"),
    "not text": (lambda file: file.write_bytes(b"\xff\xfe"), "not UTF-8"),
    "a pipe to which nobody writes": (os.mkfifo, "not a file"),
    "a link to itself": (lambda file: file.symlink_to(file.name), ""),
}


@pytest.mark.parametrize(("make", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_small_file_that_cannot_be_read_is_an_error_that_names_it(
    repository: Repository, make: Callable[[Path], Any], why: str
) -> None:
    for name in ("promoted.toml", "serving.toml"):
        file = repository.folder / "one" / name
        make(file)
        with pytest.raises(UserError, match=f"{name} cannot be read.*{why}"):
            repository.start("none")
        file.unlink()
    (repository.folder / "route").mkdir()
    make(repository.folder / "route/route.toml")
    running = repository.start("poll")
    assert running.served() == OTHERS
    if why not in ("", "not a file"):  # otherwise route.toml is not a regular file, so there is no route
        assert why in running.reason("route")


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(file.read_bytes()), Path.unlink])
def test_a_version_that_changes_while_it_is_loaded_serves_once_it_is_whole(
    repository: Repository, change: Callable[[Path], Any]
) -> None:
    changing: list[Path] = []
    running = repository.start(
        "poll", on_load=lambda runtime: change(runtime.path) if runtime.path in changing else None
    )
    changing.append(repository.publish("one", 2))
    running.poll()
    assert running.answer("one") == 1
    (failed,) = [one for one in running.server.state().versions if one.state == "UNAVAILABLE"]
    assert "changed while it was loaded" in failed.reason
    shutil.rmtree(changing.pop().parent)
    repository.publish("one", 2)
    running.poll()
    assert running.answer("one") == 2


@pytest.mark.parametrize(("rows", "columns"), [("batch", 2**60), (1, 2**62)])
def test_an_enormous_input_is_reported_and_holds_up_no_other_model_and_no_route(
    repository: Repository, rows: str | int, columns: int
) -> None:
    """No process can address 4 EiB, and numpy cannot count 16 EiB."""
    axes = f"(float[{rows}, {columns}] x) => (float[{rows}, 1] total) <int64[1] axes = {{1}}>"
    model = onnx_models.from_text(f"{axes} {{ total = ReduceSum(x, axes) }}")
    repository.publish("enormous", model=model)  # this name sorts before all others
    repository.route("route", "split = {one = 100}")
    running = repository.start("poll")
    assert running.served() == {"route": [1], **OTHERS}
    assert "its inputs (x" in running.reason("enormous")
    repository.publish("two", 2)
    log = running.poll()
    assert running.answer("two") == 2
    assert not [line for line in log if line.get("model") == "enormous"]  # the fault was already reported at the start
    with pytest.raises(ModelLoadError, match=r"enormous/1/model\.onnx"):
        repository.start("none")
