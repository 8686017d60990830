"""Which versions serve, with a real repository and real models; nobody calls over the wire here."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog.testing

from serving.server import control as control_module
from serving.server.config import ServerConfig
from serving.server.control import ModelControl
from serving.server.engine import Engine
from serving.server.errors import ControlError, ModelLoadError, NotFoundError, RepositoryError, UnavailableError
from serving.server.repository import SETTINGS_FILE
from serving.server.runtime import Runtime
from tests import onnx_models
from tests.serving.server.parts import Caller


class Controlled:
    """An engine and its control, with what a test asks of them."""

    def __init__(self, config: ServerConfig) -> None:
        self.engine = Engine(config)
        self.control = ModelControl(self.engine)

    def served(self) -> dict[str, list[str]]:
        return {name: [model.version for model in self.engine.versions(name)] for name in self.engine.names()}

    def index(self) -> list[tuple[str, str, str]]:
        return [(one.name, one.version, one.state) for one in self.control.state().versions]


Start = Callable[..., Controlled]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    onnx_models.publish(tmp_path, "text", onnx_models.text())
    return tmp_path


@pytest.fixture
def start(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(control_module, "LINGER_SECONDS", 0.0)
    started: list[Controlled] = []

    def start(mode: str, **options: object) -> Controlled:
        config = ServerConfig(models=models, model_control=mode, poll_seconds=3600, **options)  # type: ignore[arg-type]
        controlled = Controlled(config)
        started.append(controlled)
        controlled.control.start()
        return controlled

    yield start
    for each in started:
        each.control.stop()
        each.control.close()
        each.engine.close()


def add(models: Path, name: str, version: int) -> Path:
    return onnx_models.publish(models, name, getattr(onnx_models, name)(), version)


def spoil(models: Path, name: str, version: int) -> Path:
    file = models / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"no model")
    return file


def remove(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()


def test_the_latest_version_of_each_model_is_served(models: Path, start: Start) -> None:
    add(models, "gather", 10), add(models, "gather", 9)
    controlled = start("none")
    assert controlled.served() == {"gather": ["10"], "text": ["1"]}
    assert controlled.engine.model("gather").version == "10"


@pytest.mark.parametrize(("number", "expected"), [(1, ["10"]), (2, ["10", "9"]), (0, ["10", "9", "1"])])
def test_several_versions_serve_each_by_its_number(
    models: Path, start: Start, number: int, expected: list[str]
) -> None:
    add(models, "gather", 10), add(models, "gather", 9)
    controlled = start("none", num_versions=number)
    assert controlled.served()["gather"] == expected
    assert [controlled.engine.model("gather", version).version for version in expected] == expected
    assert controlled.engine.model("gather").version == "10"
    with pytest.raises(
        NotFoundError, match=f"version '7' of 'gather' is not served here; served: {', '.join(expected)}"
    ):
        controlled.engine.model("gather", "7")


def test_without_control_a_broken_model_stops_the_start(models: Path, start: Start) -> None:
    spoil(models, "gather", 2)
    with pytest.raises(ModelLoadError, match=r"gather/2/model\.onnx cannot be loaded"):
        start("none")


def test_without_control_calls_cannot_change_anything(models: Path, start: Start) -> None:
    for mode in ("none", "poll"):
        controlled = start(mode)
        with pytest.raises(
            ControlError, match=f"by call with --model-control {mode}; start the server with --model-co"
        ):
            controlled.control.load("gather")
        with pytest.raises(ControlError):
            controlled.control.unload("gather")


def test_explicitly_only_what_is_asked_for_is_served(models: Path, start: Start) -> None:
    assert start("explicit").served() == {}
    assert start("explicit", load_model=("text",)).served() == {"text": ["1"]}
    assert start("explicit", load_model=("*",)).served() == {"gather": ["1"], "text": ["1"]}
    with pytest.raises(RepositoryError, match="nobody has no version to serve"):
        start("explicit", load_model=("nobody",))


def test_load_serves_the_latest_version_and_unload_ends_it(models: Path, start: Start) -> None:
    controlled = start("explicit")
    changes: list[dict[str, list[str]]] = []
    controlled.control.on_change = lambda: changes.append(controlled.served())
    controlled.control.load("gather")
    add(models, "gather", 2)
    controlled.control.load("gather")
    controlled.control.unload("gather")
    assert changes == [{"gather": ["1"]}, {"gather": ["2"]}, {}]
    with pytest.raises(NotFoundError, match="no model 'gather' is served here; served: none"):
        controlled.engine.model("gather")
    with pytest.raises(NotFoundError, match="nothing to unload"):
        controlled.control.unload("gather")
    assert controlled.control.state().loads == {("gather", "ok"): 2}


def test_a_load_loads_again_although_the_file_is_the_same(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("gather",))
    before = controlled.engine.model("gather")
    controlled.control.load("gather")
    after = controlled.engine.model("gather")
    assert (before is after, before.version == after.version) == (False, True)


@pytest.mark.parametrize("name", ["nobody", "../models", "", "gather/1", "."])
def test_what_the_repository_does_not_have_cannot_be_loaded(models: Path, start: Start, name: str) -> None:
    controlled = start("explicit")
    with pytest.raises(NotFoundError):
        controlled.control.load(name)
    assert controlled.control.state().loads == {}


def test_a_broken_version_changes_nothing_and_is_told(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("gather",))
    before = controlled.engine.model("gather")
    file = spoil(models, "gather", 2)
    with pytest.raises(ControlError, match=r"gather/2/model\.onnx cannot be loaded .*; what served before serves on"):
        controlled.control.load("gather")
    assert controlled.engine.model("gather") is before
    assert controlled.index() == [("gather", "1", "READY"), ("gather", "2", "UNAVAILABLE")]
    assert "cannot be loaded" in controlled.control.state().versions[1].reason
    assert controlled.control.state().loads == {("gather", "ok"): 1, ("gather", "error"): 1}
    remove(file)
    add(models, "gather", 2)
    controlled.control.load("gather")
    assert controlled.index() == [("gather", "2", "READY")]


def test_a_new_version_is_warmed_up_before_it_takes_requests(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled = start("explicit", load_model=("gather",), max_batch_size=8)
    add(models, "gather", 2)
    warm_up, meanwhile = Runtime.warm_up, []

    def noting(runtime: Runtime, sizes: Sequence[int]) -> None:
        warm_up(runtime, sizes)
        meanwhile.append((controlled.engine.model("gather").version, list(sizes)))

    monkeypatch.setattr(Runtime, "warm_up", noting)
    controlled.control.load("gather")
    assert meanwhile == [("1", [1, 8])]
    assert controlled.engine.model("gather").version == "2"


def test_the_replaced_model_finishes_what_it_has_and_then_takes_no_more(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "LINGER_SECONDS", 3600.0)
    controlled = start("explicit", load_model=("text",))
    old = controlled.engine.model("text")
    controlled.control.load("text")
    caller = Caller()
    inputs = {"text": np.array(["a"], np.object_)}
    old.submit(inputs, {"text": "BYTES"}, caller)  # of a caller who looked it up before
    controlled.control.close()
    assert caller.answer.outputs["shouted"].tolist() == ["a!"]
    with pytest.raises(UnavailableError):
        old.submit(inputs, {"text": "BYTES"}, caller)


def test_polling_serves_what_comes_and_ends_what_goes(models: Path, start: Start) -> None:
    controlled = start("poll")
    changes: list[dict[str, list[str]]] = []
    controlled.control.on_change = lambda: changes.append(controlled.served())
    unchanged = controlled.engine.model("text")
    controlled.control.poll()
    added = add(models, "gather", 2)
    add(models, "two_inputs", 1)
    controlled.control.poll()
    remove(added)
    remove(models / "two_inputs/1/model.onnx")
    controlled.control.poll()
    assert changes == [
        {"gather": ["2"], "text": ["1"], "two_inputs": ["1"]},
        {"gather": ["1"], "text": ["1"]},
    ]
    assert controlled.engine.model("text") is unchanged


def test_polling_sees_a_file_that_was_replaced(models: Path, start: Start) -> None:
    controlled = start("poll")
    before = controlled.engine.model("gather")
    file = models / "gather/1/model.onnx"
    next_one = models / "next"
    next_one.write_bytes(onnx_models.text().SerializeToString())
    next_one.replace(file)
    controlled.control.poll()
    after = controlled.engine.model("gather")
    assert after is not before
    assert [spec.name for spec in after.signature.inputs] == ["text"]


def test_polling_sees_a_models_own_settings_change(models: Path, start: Start) -> None:
    controlled = start("poll")
    settings = models / "text" / SETTINGS_FILE
    settings.write_text("max_queue_size = 1")
    controlled.control.poll()
    assert controlled.engine.model("text").batcher.max_queue_size == 256
    settings.write_text("max_queue_size = 300")
    controlled.control.poll()
    assert controlled.engine.model("text").batcher.max_queue_size == 300
    settings.unlink()
    controlled.control.poll()
    assert controlled.engine.model("text").batcher.max_queue_size == 256


def test_polling_loads_a_model_whose_settings_were_mended(models: Path, start: Start) -> None:
    added = add(models, "two_inputs", 1)
    settings = added.parents[1] / SETTINGS_FILE
    settings.write_text("no settings")
    controlled = start("poll")
    assert ("two_inputs", "1", "UNAVAILABLE") in controlled.index()
    settings.write_text("max_batch_size = 8")
    controlled.control.poll()
    assert controlled.engine.model("two_inputs").max_batch_size == 8


def test_polling_leaves_a_model_that_serves_alone_when_what_comes_is_broken(models: Path, start: Start) -> None:
    controlled = start("poll")
    before = controlled.engine.model("gather")
    broken = spoil(models, "gather", 2)
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
        controlled.control.poll()
    assert [line["event"] for line in log] == ["model not loaded"]  # once: the file is the same
    assert controlled.engine.model("gather") is before
    assert ("gather", "2", "UNAVAILABLE") in controlled.index()
    spoil(models, "gather", 1)  # in place, under the model that serves
    controlled.control.poll()
    assert controlled.engine.model("gather") is before
    broken.write_bytes(onnx_models.gather().SerializeToString())
    controlled.control.poll()
    assert controlled.served()["gather"] == ["2"]
    assert controlled.control.state().loads["gather", "error"] == 2


def test_polling_begins_with_the_latest_version_that_can_be_loaded(models: Path, start: Start) -> None:
    spoil(models, "gather", 2), spoil(models, "text", 1)
    controlled = start("poll")
    assert controlled.served() == {"gather": ["1"]}
    assert controlled.index() == [
        ("gather", "1", "READY"),
        ("gather", "2", "UNAVAILABLE"),
        ("text", "1", "UNAVAILABLE"),
    ]


def test_polling_wants_one_model_at_least_to_begin_with(models: Path, start: Start) -> None:
    spoil(models, "gather", 1), spoil(models, "text", 1)
    with pytest.raises(RepositoryError, match=r"no model of .* can be served. .*gather/1/model.onnx cannot be loaded"):
        start("poll")
    for name in ("gather", "text"):
        remove(models / name / "1" / "model.onnx")
    with pytest.raises(RepositoryError, match="holds no model to serve"):
        start("poll")


def test_a_repository_that_is_away_for_a_moment_changes_nothing(models: Path, start: Start) -> None:
    controlled = start("poll")
    served = controlled.served()
    os.rename(models, models.with_name("away"))  # noqa: PTH104
    controlled.control.poll()
    assert controlled.served() == served
    os.rename(models.with_name("away"), models)  # noqa: PTH104


def test_a_models_folder_that_cannot_be_read_holds_up_no_other(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled, explicit = start("poll"), start("explicit")
    served = controlled.engine.model("gather")
    look = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:  # root may read every folder
        if folder == models / "gather":
            raise PermissionError(13, "Permission denied")
        return look(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    add(models, "text", 2)
    with structlog.testing.capture_logs() as log:
        controlled.control.poll()
    assert controlled.served() == {"gather": ["1"], "text": ["2"]}
    assert controlled.engine.model("gather") is served
    assert any(f"{models}/gather cannot be read: Permission denied" in line.get("reason", "") for line in log)
    with pytest.raises(ControlError, match="cannot be read: Permission denied"):
        explicit.control.load("gather")
    assert [file.name for file in explicit.control.published()] == ["text"]


def test_a_server_that_stops_changes_nothing_any_more(models: Path, start: Start) -> None:
    explicit, polling = start("explicit", load_model=("gather",)), start("poll")
    for each in (explicit, polling):
        each.control.stop()
    add(models, "gather", 2)
    with pytest.raises(UnavailableError, match="stopping"):
        explicit.control.load("gather")
    polling.control.poll()
    assert explicit.served() == {"gather": ["1"]}
    assert polling.served() == {"gather": ["1"], "text": ["1"]}
