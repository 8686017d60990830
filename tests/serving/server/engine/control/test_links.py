"""Links in a model repository, and files that change while they are read or that would take all memory."""

import os
import shutil
import threading
from pathlib import Path

import onnx
import onnxruntime
import pytest

from hangtag.serving.model_repository import MODEL_FILE, PROMOTION_FILE, ROUTE_FILE, SETTINGS_FILE
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine import loading
from hangtag.serving.server.engine.model_settings import settings_of
from hangtag.serving.server.engine.repository import versions
from hangtag.serving.server.errors import ModelLoadError, RepositoryError, StartError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start, add

VERSION = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
OUTSIDE = "out of the repository"


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not in the repository, with a model and a secret."""
    folder = tmp_path_factory.mktemp("elsewhere")
    add(folder, "gather", 1)
    (folder / "secret").write_text('password = "hunter2"')
    return folder


def link_model_file(models: Path, elsewhere: Path) -> None:
    (models / "linked/1").mkdir(parents=True)
    (models / "linked/1" / MODEL_FILE).symlink_to(elsewhere / "gather/1" / MODEL_FILE)


def link_version(models: Path, elsewhere: Path) -> None:
    (models / "linked").mkdir()
    (models / "linked/1").symlink_to(elsewhere / "gather/1")


def link_settings(models: Path, elsewhere: Path) -> None:
    add(models, "gather", 1).parents[1].rename(models / "linked")
    (models / "linked" / SETTINGS_FILE).symlink_to(elsewhere / "secret")


@pytest.mark.parametrize("link", [link_model_file, link_version, link_settings])
def test_a_link_out_of_the_repository_is_not_followed(
    tmp_path: Path, models: Path, elsewhere: Path, start: Start, link: object
) -> None:
    shutil.rmtree(models / "gather")
    link(models, elsewhere)  # type: ignore[operator]
    with pytest.raises(StartError, match=OUTSIDE) as refused:
        start("none")
    assert "password" not in str(refused.value)
    assert str(elsewhere) not in str(refused.value)


def test_polling_reports_a_link_out_of_the_repository_and_serves_on(
    models: Path, elsewhere: Path, start: Start
) -> None:
    controlled = start("poll")
    link_version(models, elsewhere)
    (models / "route").mkdir()
    (models / "route" / ROUTE_FILE).symlink_to(elsewhere / "secret")
    controlled.control.poll()
    assert controlled.served() == {"gather": ["1"], "text": ["1"]}
    reasons = {one.name: one.reason for one in controlled.control.state().versions if one.reason}
    assert set(reasons) == {"linked", "route"}
    assert all(OUTSIDE in reason and "password" not in reason for reason in reasons.values())
    assert not any(str(elsewhere) in reason for reason in reasons.values())


def test_a_promotion_out_of_the_repository_is_not_followed(models: Path, elsewhere: Path) -> None:
    (models / "gather" / PROMOTION_FILE).symlink_to(elsewhere / "secret")
    with pytest.raises(RepositoryError, match=OUTSIDE):
        versions(models, "gather")


def test_the_folder_of_a_model_may_be_a_link_and_so_may_the_repository(
    models: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory, start: Start
) -> None:
    (models / "linked").symlink_to(elsewhere / "gather")
    assert "linked" in start("none").served()
    whole = tmp_path_factory.mktemp("mounts") / "models"
    whole.symlink_to(models)
    (file,) = versions(whole, "gather")
    loading.load_model(file, ServerConfig(models=whole)).close()


def test_files_that_kubernetes_mounts_are_served_and_their_change_is_seen(models: Path, start: Start) -> None:
    """A ConfigMap's files are links to a link to a folder with a date, which is replaced as a whole."""

    def mount(folder: Path, date: str, **files: bytes) -> None:
        (folder / f"..{date}").mkdir()
        for name, content in files.items():
            (folder / f"..{date}" / name).write_bytes(content)
        (folder / "..next").symlink_to(f"..{date}")
        (folder / "..next").rename(folder / "..data")

    file = models / "gather/1" / MODEL_FILE
    content = file.read_bytes()
    file.unlink()
    mount(file.parent, "2026_11_26", **{MODEL_FILE: content})
    file.symlink_to(f"..data/{MODEL_FILE}")
    settings = models / "gather" / SETTINGS_FILE
    mount(settings.parent, "2026_11_26", **{SETTINGS_FILE: b"max_queue_size = 300"})
    settings.symlink_to(f"..data/{SETTINGS_FILE}")
    controlled = start("poll")
    assert controlled.engine.model("gather").state().max_queue_size == 300
    mount(settings.parent, "2026_11_27", **{SETTINGS_FILE: b"max_queue_size = 301"})
    controlled.control.poll()
    assert controlled.engine.model("gather").state().max_queue_size == 301


@pytest.mark.skipif(VERSION < (1, 32), reason="only a current ONNX Runtime checks the paths of external data")
@pytest.mark.parametrize("location", ["absolute", "above", "linked"])
def test_weights_outside_of_the_folder_are_not_read(models: Path, elsewhere: Path, location: str) -> None:
    """A caller could read the answer, which has the bytes of the file in it."""
    secret = elsewhere / "secret"
    folder = models / "leak/1"
    folder.mkdir(parents=True)
    (folder / "linked").symlink_to(secret)
    above = os.path.relpath(secret, folder)
    where = {"absolute": str(secret), "above": above, "linked": "linked"}[location]
    model = onnx_models.with_external_weights(where, onnx.TensorProto.UINT8, 16)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    (file,) = versions(models, "leak")
    with pytest.raises(ModelLoadError, match="External data path"):
        loading.load_model(file, ServerConfig(models=models))


HOSTILE_TOML = {
    "nested without end": (b"max_queue_size = " + b"[" * 100_000, "recursion"),
    "too large": (b"# " + b"x" * (2 << 20), "more than 1,048,576 bytes"),
    "not text": (b"\xff\xfe", "can't decode"),
}


@pytest.mark.parametrize(("content", "why"), HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_a_file_that_cannot_be_read_as_toml_is_an_error_in_every_place(models: Path, content: bytes, why: str) -> None:
    folder = models / "gather"
    (folder / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(StartError, match=f"cannot be read as TOML: .*{why}"):
        settings_of(folder, ServerConfig(models=models))
    (folder / PROMOTION_FILE).write_bytes(content)
    with pytest.raises(RepositoryError, match=f"cannot be read as TOML: .*{why}"):
        versions(models, "gather")


def test_a_pipe_in_place_of_a_file_is_an_error_and_nobody_waits_for_its_writer(models: Path) -> None:
    pipe = models / "gather" / PROMOTION_FILE
    os.mkfifo(pipe)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            versions(models, "gather")
        except RepositoryError as error:
            ended.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    if reader.is_alive():
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # it waits no longer
    assert [str(error) for error in ended if "it is not a file" in str(error)], "the reader waited for the pipe"


def test_links_in_a_circle_are_an_error(models: Path) -> None:
    (models / "gather" / SETTINGS_FILE).symlink_to(SETTINGS_FILE)
    with pytest.raises(StartError, match="cannot be read"):
        settings_of(models / "gather", ServerConfig(models=models))


def test_a_version_that_changes_while_it_is_loaded_does_not_serve_until_it_is_whole(models: Path, start: Start) -> None:
    class Replaced(Runtime):
        """Loads the file, which somebody replaces in that moment."""

        def __init__(self, path: Path, **options: object) -> None:
            super().__init__(path, **options)  # type: ignore[arg-type]
            if replacing:
                path.write_bytes(path.read_bytes())

    replacing: list[bool] = []
    controlled = start("poll", runtimes=Replaced)
    add(models, "gather", 2)
    replacing.append(True)
    (file, *_) = versions(models, "gather")
    with pytest.raises(ModelLoadError, match="changed while it was loaded"):
        loading.load_model(file, ServerConfig(models=models), runtimes=Replaced)
    controlled.control.poll()
    replacing.clear()
    assert controlled.served()["gather"] == ["1"]
    controlled.control.poll()
    assert controlled.served()["gather"] == ["2"]


def test_a_version_that_vanishes_before_it_is_loaded_is_an_error(models: Path) -> None:
    (file,) = versions(models, "gather")
    shutil.rmtree(file.path.parent)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        loading.load_model(file, ServerConfig(models=models))
