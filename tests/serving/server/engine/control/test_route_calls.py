"""Routes that are loaded and unloaded by call."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import structlog.testing

from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ControlError, NotFoundError, UnavailableError
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start
from tests.serving.server.engine.control.route_files import SPLIT, problem, publish_members, until_closed, write
from tests.serving.server.parts import Caller


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return publish_members(tmp_path / "models")


def test_routes_are_loaded_and_unloaded_by_call(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("explicit", load_model=("one",))
    with pytest.raises(ControlError, match="its member two does not serve"):
        controlled.control.load("both")
    controlled.control.load("two")
    controlled.control.load("both")
    assert controlled.engine.names() == ["both", "one", "two"]
    controlled.control.unload("two")
    assert controlled.engine.names() == ["one"]
    controlled.control.load("two")
    assert controlled.engine.names() == ["both", "one", "two"]
    controlled.control.unload("both")
    assert controlled.engine.names() == ["one", "two"]
    assert ("both", "1") in controlled.control.published()
    with pytest.raises(NotFoundError):
        controlled.control.unload("both")
    with pytest.raises(NotFoundError, match="it has: both, one, two"):
        controlled.control.load("three")


def test_by_call_a_route_follows_its_file_only_when_it_is_loaded(models: Path, start: Start) -> None:
    file = write(models, "both", SPLIT)
    controlled = start("explicit", load_model=("*",))
    file.write_text("split = {one = 10, two = 90}")
    controlled.control.load("one")
    assert controlled.engine.model("both").parameters()["route_weights"] == "50, 50"
    controlled.control.load("both")
    assert controlled.engine.model("both").parameters()["route_weights"] == "10, 90"
    file.write_text("split = {one = 10}")
    with pytest.raises(ControlError, match="these add up to 10"):
        controlled.control.load("both")
    assert controlled.engine.model("both").parameters()["route_weights"] == "10, 90"


def test_a_route_is_loaded_by_call_though_its_shadow_does_not_serve(models: Path, start: Start) -> None:
    file = write(models, "both", 'split = {one = 100}\nshadow = {model = "two", share = 1}')
    controlled = start("explicit", load_model=("one",))
    changes: list[list[str]] = []
    controlled.control.on_change = lambda: changes.append(controlled.engine.names())
    with structlog.testing.capture_logs() as logs:
        controlled.control.load("both")
        controlled.control.load("both")
    assert changes == [["both", "one"]] * 2
    (reported,) = [entry["reason"] for entry in logs if entry["event"] == "route serves, but not as its file says"]
    assert "route both goes on without its shadow: its shadow two does not serve" in reported
    controlled.control.load("two")
    shadow = controlled.engine.model("two")
    assert isinstance(shadow, ServedModel)
    assert shadow.shares_processors
    controlled.control.unload("two")
    file.write_text('split = {one = 100}\nshadow = {model = "tow", share = 1}')
    with pytest.raises(ControlError, match=r"its shadow tow does not serve: .* no model of this name"):
        controlled.control.load("both")
    assert controlled.engine.model("both").parameters()["route_shadow"] == "two 1"


def test_a_route_whose_folder_is_gone_can_be_unloaded_by_call_and_become_a_model(models: Path, start: Start) -> None:
    file = write(models, "both", SPLIT)
    controlled = start("explicit", load_model=("*",))
    file.unlink()
    onnx_models.publish(models, "both", onnx_models.doubled("batch", "batch"))
    controlled.control.load("both")
    assert isinstance(controlled.engine.model("both"), ServedModel)
    write(models, "both", SPLIT)
    shutil.rmtree(models / "both/1")
    controlled.control.load("both")
    file.unlink()
    (models / "both").rename(models.parent / "away")
    controlled.control.unload("both")
    controlled.control.load("one")
    assert controlled.engine.names() == ["one", "two"]


def test_a_call_for_a_member_that_has_just_gone_says_so(models: Path, start: Start) -> None:
    write(models, "both", "split = {one = 100}")
    controlled = start("explicit", load_model=("one", "both"))
    route, member = controlled.engine.model("both"), controlled.engine.model("one")
    controlled.control.unload("one")
    until_closed(member)
    with pytest.raises(UnavailableError, match="the member one of route both does not serve now"):
        route.submit({"x": np.ones((1, 2), np.float32)}, {"x": "FP32"}, Caller())


def test_a_route_that_the_start_names_serves_once_its_members_do(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("explicit", load_model=("both", "one"))
    assert controlled.engine.names() == ["one"]
    assert "its member two does not serve" in problem(controlled, "both")
    controlled.control.load("two")
    assert controlled.engine.names() == ["both", "one", "two"]


def test_a_route_that_waits_for_a_member_can_be_unloaded_and_does_not_come_back(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("explicit", load_model=("*",))
    controlled.control.unload("two")
    controlled.control.unload("both")
    controlled.control.load("two")
    assert controlled.engine.names() == ["one", "two"]
    with pytest.raises(NotFoundError):
        controlled.control.unload("both")


def test_a_worker_that_starts_repeats_calls_for_routes_and_members_in_whatever_order_they_are_listed(
    models: Path, start: Start
) -> None:
    write(models, "both", SPLIT)
    controlled = start("explicit")
    controlled.control.catch_up(["both", "two", "one"], [])
    assert controlled.engine.names() == ["both", "one", "two"]
    controlled.control.catch_up([], ["one", "both"])
    controlled.control.catch_up(["one"], [])
    assert controlled.engine.names() == ["one", "two"]
    controlled.control.catch_up(["both"], ["one"])
    assert controlled.engine.names() == ["two"]
    controlled.control.load("one")
    assert controlled.engine.names() == ["both", "one", "two"]
