"""Routes that depend on another one or on a shadow: what becomes of them when that changes or goes."""

import shutil
from pathlib import Path

import pytest
import structlog.testing

from hangtag.serving.server.engine.served_model import ServedModel
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start, spoil
from tests.serving.server.engine.control.route_files import answers, problem, publish_members, write


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return publish_members(tmp_path / "models")


def test_a_route_goes_on_without_a_shadow_that_goes(models: Path, start: Start) -> None:
    write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    write(models, "typo", 'split = {one = 100}\nshadow = {model = "tow", share = 1}')
    controlled = start("poll")
    assert "its shadow tow does not serve" in problem(controlled, "typo")
    (models / "two" / "1" / "model.onnx").unlink()
    (models / "two" / "1").rmdir()
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
    assert "route both goes on without its shadow" in str(logs)
    assert controlled.engine.names() == ["both", "one"]


def test_a_route_goes_on_without_a_shadow_that_has_another_signature_or_cannot_be_loaded(
    models: Path, start: Start
) -> None:
    write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    controlled = start("poll")
    onnx_models.publish(models, "two", onnx_models.gather(), version=2)
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
        controlled.control.poll()
    (entry,) = [entry for entry in logs if entry["event"] == "route serves, but not as its file says"]
    assert "both goes on without its shadow: the models of a route must have one signature" in entry["reason"]
    assert "both" in controlled.engine.names()
    shutil.rmtree(models / "two/2")
    spoil(models, "two", 3)
    shutil.rmtree(models / "two/1")
    again = start("poll")
    assert "both" in again.engine.names()
    assert again.control.state().loads["both", "error"] == 1
    onnx_models.publish(models, "two", onnx_models.doubled("batch", "batch"), version=4)
    again.control.poll()
    assert {"both", "two"} <= set(again.engine.names())
    assert again.control.state().loads["both", "ok"] == 2


def test_a_changed_file_with_an_unknown_shadow_is_not_followed(models: Path, start: Start) -> None:
    file = write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    controlled = start("poll")
    before = controlled.engine.model("both")
    file.write_text('split = {one = 100}\nshadow = {model = "tow", share = 1}')
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
    assert "its shadow tow does not serve: the repository has no model of this name" in str(logs)
    assert controlled.engine.model("both") is before


@pytest.mark.parametrize(
    "text", ["split = {around = 100}", 'split = {one = 100}\nshadow = {model = "around", share = 1}']
)
def test_a_file_that_closes_a_circle_takes_no_other_route_out(models: Path, start: Start, text: str) -> None:
    file = write(models, "inner", "split = {one = 100}")
    for name in ("around", "a", "z"):
        write(models, name, "split = {inner = 100}" if name == "around" else "split = {around = 100}")
    controlled = start("poll")
    names = controlled.engine.names()
    file.write_text(text)
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
    assert "routes must not lead to themselves" in str(logs)
    assert controlled.engine.names() == names
    assert answers(controlled, "a")


def test_a_model_computes_with_all_threads_again_once_it_is_no_shadow(models: Path, start: Start) -> None:
    file = write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    write(models, "another", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    controlled = start("poll")
    model = controlled.engine.model("two")
    assert isinstance(model, ServedModel)
    assert model.shares_processors
    file.write_text("split = {two = 100}")
    controlled.control.poll()
    assert model.shares_processors
    shutil.rmtree(models / "another")
    controlled.control.poll()
    assert not model.shares_processors


def test_a_route_that_is_unloaded_takes_those_that_need_it_out_until_it_is_loaded_again(
    models: Path, start: Start
) -> None:
    write(models, "inner", "split = {one = 100}")
    write(models, "outer", "split = {inner = 100}")
    controlled = start("explicit", load_model=("one", "inner", "outer"))
    assert controlled.engine.names() == ["inner", "one", "outer"]
    controlled.control.unload("inner")
    assert controlled.engine.names() == ["one"]
    assert "its member inner does not serve (with --model-control explicit, load it first" in problem(
        controlled, "outer"
    )
    controlled.control.load("inner")
    assert controlled.engine.names() == ["inner", "one", "outer"]
