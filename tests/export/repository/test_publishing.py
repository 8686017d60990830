"""Publishing is all or nothing, whatever fails and whatever else is published at the same time."""

import re
from pathlib import Path

import pytest

from hangtag.export.errors import ExportError
from hangtag.export.repository import publishing, triton_config
from hangtag.export.repository.publishing import publish
from hangtag.serving.model_repository import next_version
from hangtag.serving.server.runtime.session import Runtime
from tests.export.publishing import latest_served, publish_content, publisher
from tests.export.runs import contents
from tests.kit.shipped import latest


def test_versions_count_up(tmp_path: Path) -> None:
    for version, text in enumerate(["first", "second", "third"], start=1):
        assert publish_content(tmp_path, "cnn", text) == tmp_path / "cnn" / str(version)
    assert contents(tmp_path).keys() == {
        "cnn",
        *(f"cnn/{n}" for n in (1, 2, 3)),
        *(f"cnn/{n}/model.onnx" for n in (1, 2, 3)),
    }
    assert (tmp_path / "cnn/1/model.onnx").read_text() == "first"
    assert latest_served(tmp_path) == {"cnn": 3}


def test_the_next_version_is_one_above_the_highest_number(tmp_path: Path) -> None:
    for name in ("2", "5", "latest", "v7", "8.bak", "-9", ".publishing-10"):
        (tmp_path / "cnn" / name).mkdir(parents=True)
    (tmp_path / "cnn/11.txt").touch()
    assert next_version(tmp_path, "cnn") == 6
    assert publish_content(tmp_path, "cnn", "").name == "6"


def test_a_missing_repository_is_created(tmp_path: Path) -> None:
    assert publish_content(tmp_path / "some/where", "cnn", "") == tmp_path / "some/where/cnn/1"


def test_every_new_or_changed_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a published version could be gone after a loss of power: a folder holds the names of its files."""
    synced: list[Path] = []
    monkeypatch.setattr(publishing, "sync", synced.append)
    for folder in ("some/where", "some/where/cnn"):  # the one that the new name is in, at last
        publish_content(tmp_path / "some/where", "cnn", "")
        assert synced[-1] == tmp_path / folder
    assert synced[:2] == [tmp_path / "some", tmp_path]


def test_a_server_of_another_user_may_read_it(tmp_path: Path) -> None:
    for _ in range(2):
        for path in (folder := publish_content(tmp_path, "cnn", ""), folder.parent, folder / "model.onnx"):
            required = 0o055 if path.is_dir() else 0o044
            assert path.stat().st_mode & required == required


def test_the_folder_is_known_only_when_the_version_is_published(tmp_path: Path) -> None:
    with publish(tmp_path, "cnn") as publication:
        publication.model_file.write_text("new")
        with pytest.raises(RuntimeError, match="published at the end of the with block"):
            _ = publication.folder
    assert publication.folder == tmp_path / "cnn/1"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_server_sees_the_old_state_while_the_file_is_written(tmp_path: Path, is_first: bool) -> None:
    publish_content(tmp_path, "lstm", "beside it")
    if not is_first:
        publish_content(tmp_path, "cnn", "old")
    before = latest_served(tmp_path)
    with publish(tmp_path, "cnn") as publication:
        publication.model_file.write_text("new")
        assert latest_served(tmp_path) == before
    assert latest_served(tmp_path) == before | {"cnn": 1 if is_first else 2}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_configuration_is_there_before_its_version_is(
    tmp_path: Path, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the process is killed, a version that must not be batched is never there without its config.pbtxt."""
    if not is_first:
        publish_content(tmp_path, "cnn", "old")
    renamed = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if not is_first:
            assert (tmp_path / "cnn/config.pbtxt").read_text() == triton_config.FIRST_LINE
        assert (path.parent if path.name == "1" else path).joinpath("config.pbtxt").exists()
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with publish(tmp_path, "cnn") as publication:
        publication.model_file.write_text("new")
        publication.config_file.write_text(triton_config.FIRST_LINE)
    folder = publication.folder
    assert (folder.parent / "config.pbtxt").read_text() == triton_config.FIRST_LINE
    assert (folder / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [[], ["lstm"], ["cnn"]])
def test_a_failure_leaves_the_repository_as_it_was(
    tmp_path: Path, there: list[str], error: type[BaseException]
) -> None:
    models = tmp_path / "some/models"
    for name in there:
        publish_content(models, name, "old")
    before = contents(tmp_path)

    def fail_in_the_middle() -> None:
        with publish(models, "cnn") as publication:
            publication.model_file.write_text("half")
            raise error

    with pytest.raises(error):
        fail_in_the_middle()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../cnn", "a/b", "/tmp/cnn", ".hidden", "-cnn", "a b", "cnn\n", "cnn\0"]
)
def test_a_name_that_would_leave_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"model name .*: use letters, digits"):
        publish_content(tmp_path / "models", name, "")
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_route_is_refused(tmp_path: Path) -> None:
    route = tmp_path / "both/route.toml"
    route.parent.mkdir()
    route.write_text("split = {cnn = 100}")
    with pytest.raises(ExportError, match=f"^both is a route, which answers by other models: {route}. Publish the"):
        publish_content(tmp_path, "both", "content")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["both", "route.toml"]


@pytest.mark.parametrize("name", ["cnn", "cnn-int8", "a..b", "7", "Resnet_50.v2"])
def test_other_names_are_accepted(tmp_path: Path, name: str) -> None:
    publish_content(tmp_path, name, "")
    assert latest_served(tmp_path) == {name: 1}


@pytest.mark.parametrize("blocked", ["models", "models/cnn"])
def test_an_unwritable_repository_is_reported(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file, not a folder")
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"models cannot be written: .*Nothing was published"):
        publish_content(tmp_path / "models", "cnn", "")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("there", [0, 1])
def test_the_loser_of_a_race_for_a_version_number_gets_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    """Another export takes the version number at the worst moment: after it was found free, before the rename."""
    for _ in range(there):
        publish_content(tmp_path, "cnn", "old")
    rename = Path.rename

    def late_rename(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assert publish_content(tmp_path, "cnn", "theirs").name == str(there + 1)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late_rename)
    ours = publish_content(tmp_path, "cnn", "ours")
    assert ours == tmp_path / "cnn" / str(there + 2)
    assert (ours / "model.onnx").read_text() == "ours"
    assert (tmp_path / "cnn" / str(there + 1) / "model.onnx").read_text() == "theirs"
    assert not list(tmp_path.rglob(".publishing-*"))


@pytest.mark.parametrize("there", [0, 1])
def test_processes_that_publish_at_once_all_succeed(tmp_path: Path, there: int) -> None:
    """Each is held until all are about to move their file into place."""
    models = tmp_path / "models"
    for _ in range(there):
        publish_content(models, "cnn", "old")
    sources = [tmp_path / name for name in ("one", "two", "three")]
    for source in sources:
        source.write_text(source.name * 1000)
    with (
        publisher(models, "cnn", sources[0], "written") as one,
        publisher(models, "cnn", sources[1], "written") as two,
        publisher(models, "cnn", sources[2], "written") as three,
    ):
        processes = (one, two, three)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in processes]
    folders = [Path(line.removeprefix("published ").strip()) for line in outputs]
    assert sorted(folders) == [models / "cnn" / str(there + n) for n in (1, 2, 3)]
    for folder, source in zip(folders, sources, strict=True):
        assert (folder / "model.onnx").read_bytes() == source.read_bytes()
    assert not list(models.rglob(".publishing-*"))


def test_the_repository_is_laid_out_as_triton_documents(tmp_path: Path) -> None:
    """Triton's user guide, "Model Repository": a folder for each model, in it a folder for each version, named by a
    number that does not begin with 0, in it, for ONNX, model.onnx; config.pbtxt may be left out for ONNX."""
    for name in ("cnn", "cnn", "cnn-int8", "Resnet_50.v2"):
        publish_content(tmp_path, name, name)
    assert all(path.is_dir() for path in tmp_path.iterdir())
    for folder in tmp_path.iterdir():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", folder.name)
        versions = list(folder.iterdir())
        assert versions
        for version in versions:
            assert re.fullmatch(r"[1-9][0-9]*", version.name)
            assert [path.name for path in version.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("model", ["lstm", "cnn"])
def test_triton_can_generate_the_configuration_of_a_shipped_file(model: str) -> None:
    """Triton's user guide, "Auto-Generated Model Configuration": it reads inputs and outputs off the ONNX file, and
    batches where the first axis of each is free. Its ONNX backend takes these types, and no external data elsewhere."""
    signature = Runtime(latest(model), provider="cpu").signature
    for spec in (*signature.inputs, *signature.outputs):
        assert spec.datatype in {"UINT8", "INT64", "FP32"}
        assert spec.shape[0] is None
        assert None not in spec.shape[1:]
