"""Routes in a model repository: which serve, and what their files and their members change."""

import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog.testing

from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import ControlError, NotFoundError, RepositoryError
from hangtag.serving.server.telemetry.server_state import READY
from tests.kit import onnx_models
from tests.serving.server.engine.control.controlled import Start, spoil
from tests.serving.server.engine.control.route_files import (
    SPLIT,
    answers,
    problem,
    publish_members,
    until_closed,
    write,
)
from tests.serving.server.parts import Caller

CASCADE = 'cascade = ["one", "two"]\naccept = {output = "y", at_least = 0.9}'


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return publish_members(tmp_path / "models")


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_route_is_loaded_with_its_members(models: Path, start: Start, mode: str) -> None:
    write(models, "both", SPLIT)
    controlled = start(mode)
    assert controlled.engine.names() == ["both", "one", "two"]
    (state,) = [state for state in controlled.control.state().versions if state.name == "both"]
    assert (state.version, state.state) == ("1", READY)
    assert answers(controlled, "both")


MISTAKES = [
    ("split = {one = 50, three = 50}", "its member three does not serve: the repository has no model of"),
    (
        'split = {one = 50, "two@7" = 50}',
        "its member two@7 does not serve: the repository has no version 7 of two; it has 1",
    ),
    ("split = {one = 50, gather = 50}", "one and gather differ in their inputs: x: FP32 [any, 2] and index"),
    ("split = {one = 90}", "the shares must add up to 100 (percent); these add up to 90"),
    ("split = {one = 50, both = 50}", "routes must not lead to themselves: both -> both"),
    ("split = {one = 50, other = 50}", "routes must not lead to themselves: both -> other -> both"),
    (CASCADE.replace('"y"', '"z"'), "the models have no output 'z'"),
    (CASCADE.replace("0.9", "1.1"), "at_least must be a number from 0 to 1, not 1.1"),
    (CASCADE.replace("accept", "acept"), "unknown key 'acept'"),
    (CASCADE.replace("cascade", "cascad"), "unknown key 'cascad'; a route may have cascade, accept,"),
    ("cascade = [", "cannot be read as TOML"),
]


@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
@pytest.mark.parametrize(("text", "reason"), MISTAKES)
def test_a_route_that_cannot_serve_is_reported_and_everything_else_serves(
    models: Path, start: Start, mode: str, text: str, reason: str
) -> None:
    onnx_models.publish(models, "gather", onnx_models.gather())
    write(models, "both", text)
    write(models, "other", "split = {two = 50, both = 50}")
    write(models, "sound", SPLIT)
    loaded = ("one", "two", "gather", "sound") if mode == "explicit" else ()
    with structlog.testing.capture_logs() as logs:
        controlled = start(mode, load_model=loaded)
        if mode == "explicit":
            with pytest.raises(ControlError, match=re.escape(reason)):
                controlled.control.load("both")
        else:
            assert reason in problem(controlled, "both")
    assert {"one", "two", "gather", "sound"} <= set(controlled.engine.names())
    assert "both" not in controlled.engine.names()
    (entry,) = [entry for entry in logs if entry["event"] == "route not loaded" and entry["model"] == "both"]
    assert reason in entry["reason"]
    if mode == "poll":
        with structlog.testing.capture_logs() as logs:
            controlled.control.poll()
        assert logs == []  # what has not changed is not reported again


def test_a_call_to_what_is_out_of_service_says_why(models: Path, start: Start) -> None:
    write(models, "both", "split = {one = 90}")
    write(models, "explained", 'split = {one = 50, "two@7" = 50}')
    spoil(models, "broken", 1)
    controlled = start("poll")
    for name, reason in {
        "both": "'both' is out of service: .*these add up to 90.*; served: one, two",
        "explained": "'explained' is out of service: its member two@7 does not serve: .* no version 7 of two; it has 1",
        "broken": "'broken' is out of service: .*cannot be loaded by ONNX Runtime",
        "nobody": "no model 'nobody' is served here; served: one, two",
    }.items():
        with pytest.raises(NotFoundError, match=reason):
            controlled.engine.model(name)
    write(models, "both", SPLIT)
    controlled.control.poll()
    assert answers(controlled, "both")


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_server_that_has_a_route_without_members_alone_does_not_start(models: Path, start: Start, mode: str) -> None:
    write(models, "both", "split = {one = 100}")
    for name in ("one", "two"):
        (models / name).rename(models.parent / name)
    with pytest.raises(RepositoryError, match="its member one does not serve"):
        start(mode)


def test_a_member_version_that_is_published_but_not_served_names_the_option(models: Path, start: Start) -> None:
    onnx_models.publish(models, "two", onnx_models.doubled("batch", "batch"), version=2)
    write(models, "both", 'split = {one = 50, "two@1" = 50}')
    assert "two@1 does not serve; of two version 2 serves ('hangtag serve --num-versions'" in problem(
        start("none"), "both"
    )


def test_a_route_that_is_loaded_before_its_members_says_which_to_load(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("explicit")
    with pytest.raises(ControlError, match="load it first: 'hangtag models load one'"):
        controlled.control.load("both")


def test_a_route_of_routes_is_loaded_whatever_their_names_order(models: Path, start: Start) -> None:
    write(models, "a", "split = {z = 100}")
    write(models, "z", SPLIT)
    controlled = start("poll")
    assert controlled.engine.names() == ["a", "one", "two", "z"]
    assert answers(controlled, "a")


def test_a_changed_file_is_followed_and_a_spoiled_one_is_not(models: Path, start: Start) -> None:
    file = write(models, "both", SPLIT)
    controlled = start("poll")
    file.write_text("split = {one = 10, two = 90}")
    controlled.control.poll()
    assert controlled.engine.model("both").parameters()["route_weights"] == "10, 90"
    file.write_text("split = {one = 10}")
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
    assert controlled.engine.model("both").parameters()["route_weights"] == "10, 90"
    assert "these add up to 10" in str(logs)
    assert controlled.control.state().loads["both", "error"] == 1
    assert controlled.control.state().loads["both", "ok"] == 2
    file.unlink()
    file.parent.rmdir()
    controlled.control.poll()
    assert controlled.engine.names() == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("split = {one = 50, tow = 50}", "its member tow does not serve"),
        ("split = {one = 50, both = 50}", "routes must not lead to themselves: both -> both"),
        ("split = {one = 50, gather = 50}", "one and gather differ in their inputs"),
    ],
)
def test_a_changed_file_that_cannot_serve_is_reported_and_the_route_goes_on_as_before(
    models: Path, start: Start, text: str, reason: str
) -> None:
    onnx_models.publish(models, "gather", onnx_models.gather())
    file = write(models, "both", SPLIT)
    controlled = start("poll")
    before = controlled.engine.model("both")
    file.write_text(text)
    with structlog.testing.capture_logs() as logs:
        controlled.control.poll()
    assert reason in str(logs)
    assert controlled.engine.model("both") is before
    file.write_text("split = {two = 100}")
    controlled.control.poll()
    assert controlled.engine.model("both").parameters()["route_members"] == "two"


def test_a_route_follows_its_file_before_a_model_that_is_gone_stops_to_serve(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(models, "both", "split = {one = 100}")
    controlled = start("poll")
    changes: list[tuple[str, int]] = []
    serve = controlled.engine.serve

    def recorded(name: str, versions: Sequence[Servable]) -> list[Servable]:
        changes.append((name, len(versions)))
        return serve(name, versions)

    monkeypatch.setattr(controlled.engine, "serve", recorded)
    file.write_text("split = {three = 100}")
    (models / "one").rename(models / "three")
    controlled.control.poll()
    assert changes == [("three", 1), ("both", 1), ("one", 0)]


def test_a_name_may_become_a_routes_and_a_models_again(models: Path, start: Start) -> None:
    onnx_models.publish(models, "both", onnx_models.doubled("batch", "batch"))
    controlled = start("poll")
    model = controlled.engine.model("both")
    write(models, "both", SPLIT)
    shutil.rmtree(models / "both/1")
    controlled.control.poll()
    assert controlled.engine.model("both").parameters()["route"] == "split"
    until_closed(model)
    onnx_models.publish(models, "both", onnx_models.doubled("batch", "batch"))
    controlled.control.poll()
    assert isinstance(controlled.engine.model("both"), ServedModel)
    assert controlled.engine.names() == ["both", "one", "two"]


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_a_routes_file_beside_a_models_versions_is_reported_and_stops_nothing(
    models: Path, start: Start, mode: str
) -> None:
    write(models, "both", SPLIT)
    if mode == "none":
        write(models, "two", "split = {two = 100}")
    with structlog.testing.capture_logs() as logs:
        controlled = start(mode)
        if mode == "poll":
            before = controlled.engine.model("both")
            write(models, "two", "split = {two = 100}")
            controlled.control.poll()
            controlled.control.poll()
            assert controlled.engine.model("both") is before
    (entry,) = [entry for entry in logs if entry["event"] == "route.toml not followed"]
    assert entry["model"] == "two"
    assert isinstance(controlled.engine.model("two"), ServedModel)
    assert answers(controlled, "both")


def test_a_route_goes_with_a_member_that_goes_and_comes_back_with_it(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("poll")
    (models / "two").rename(models.parent / "away")
    controlled.control.poll()
    assert controlled.engine.names() == ["one"]
    assert "its member two does not serve" in problem(controlled, "both")
    (models.parent / "away").rename(models / "two")
    controlled.control.poll()
    assert controlled.engine.names() == ["both", "one", "two"]


def test_a_new_version_of_a_member_answers_and_the_routes_counters_go_on(models: Path, start: Start) -> None:
    write(models, "both", "split = {one = 100}")
    controlled = start("poll")
    before, member = controlled.engine.model("both"), controlled.engine.model("one")
    onnx_models.publish(models, "one", onnx_models.doubled("batch", "batch"), version=2)
    controlled.control.poll()
    until_closed(member)
    after = controlled.engine.model("both")
    assert after is not before
    assert after.statistics is before.statistics
    caller = Caller()
    # A thread that looked the old one up before reaches the new version too.
    before.submit({"x": np.ones((1, 2), np.float32)}, {"x": "FP32"}, caller)
    controlled.engine.model("one").close()
    assert caller.answer.timings.stages[0].member == "one"
    assert controlled.engine.model("one").statistics.snapshot().inference_count == 1


def test_a_member_of_another_signature_takes_the_route_out(models: Path, start: Start) -> None:
    write(models, "both", SPLIT)
    controlled = start("poll")
    onnx_models.publish(models, "two", onnx_models.gather(), version=2)
    controlled.control.poll()
    assert "one and two differ in their inputs" in problem(controlled, "both")


def test_the_state_of_routes_and_models_goes_through_a_pipe_between_processes(models: Path, start: Start) -> None:
    onnx_models.publish(models, "other", onnx_models.doubled("batch", "batch"))
    write(
        models,
        "both",
        'cascade = ["one", "two"]\naccept = {output = "y", at_least = 0.9}\nshadow = {model = "other", share = 1}',
    )
    controlled = start("poll")
    assert answers(controlled, "both")
    state = controlled.control.state()
    assert pickle.loads(pickle.dumps(state)) == state
