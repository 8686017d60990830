"""Which versions serve at the start and after load and unload calls, with real models and without a transport."""

from pathlib import Path

import numpy as np
import pytest

from hangtag.export.repository import promotion
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import ControlError, ModelLoadError, NotFoundError, RepositoryError, UnavailableError
from hangtag.serving.server.runtime.arrays import Array, Tensors
from hangtag.serving.server.runtime.session import Runtime
from tests.serving.server.engine.control.controlled import Start, add, remove, spoil
from tests.serving.server.parts import Caller


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


def test_in_explicit_mode_only_requested_models_serve(models: Path, start: Start) -> None:
    assert start("explicit").served() == {}
    assert start("explicit", load_model=("text",)).served() == {"text": ["1"]}
    assert start("explicit", load_model=("*",)).served() == {"gather": ["1"], "text": ["1"]}
    with pytest.raises(RepositoryError, match="holds no model 'nobody'; the models there: gather, text"):
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


def test_a_load_follows_a_promotion(models: Path, start: Start) -> None:
    add(models, "gather", 2)
    controlled = start("explicit", load_model=("gather",))
    promotion.promote(models, "gather", 1)
    assert controlled.served() == {"gather": ["2"]}
    controlled.control.load("gather")
    assert controlled.served() == {"gather": ["1"]}
    assert start("none").served()["gather"] == ["1"]


def test_a_load_loads_again_although_the_file_is_the_same(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("gather",))
    before = controlled.engine.model("gather")
    controlled.control.load("gather")
    after = controlled.engine.model("gather")
    assert (before is after, before.version == after.version) == (False, True)


@pytest.mark.parametrize("name", ["nobody", "../models", "", "gather/1", "."])
def test_a_model_that_the_repository_lacks_cannot_be_loaded(models: Path, start: Start, name: str) -> None:
    controlled = start("explicit")
    with pytest.raises(NotFoundError):
        controlled.control.load(name)
    assert controlled.control.state().loads == {}


def test_a_broken_version_changes_nothing_and_is_reported(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("gather",))
    before = controlled.engine.model("gather")
    file = spoil(models, "gather", 2)
    with pytest.raises(
        ControlError, match=r"gather/2/model\.onnx cannot be loaded .*; the versions that served before still serve"
    ):
        controlled.control.load("gather")
    assert controlled.engine.model("gather") is before
    assert controlled.index() == [("gather", "1", "READY"), ("gather", "2", "UNAVAILABLE")]
    assert "cannot be loaded" in controlled.control.state().versions[1].reason
    assert controlled.control.state().loads == {("gather", "ok"): 1, ("gather", "error"): 1}
    remove(file)
    add(models, "gather", 2)
    controlled.control.load("gather")
    assert controlled.index() == [("gather", "2", "READY")]


def test_a_broken_version_is_reported_until_another_is_loaded_or_its_model_is_unloaded(
    models: Path, start: Start
) -> None:
    controlled = start("explicit", load_model=("gather",))
    spoil(models, "gather", 2)
    with pytest.raises(ControlError):
        controlled.control.load("gather")
    add(models, "gather", 3)
    controlled.control.load("gather")
    assert controlled.index() == [("gather", "3", "READY")]
    spoil(models, "gather", 4)
    with pytest.raises(ControlError):
        controlled.control.load("gather")
    assert controlled.index() == [("gather", "3", "READY"), ("gather", "4", "UNAVAILABLE")]
    promotion.promote(models, "gather", 1)
    controlled.control.load("gather")
    assert controlled.index() == [("gather", "1", "READY")]
    spoil(models, "gather", 1)
    with pytest.raises(ControlError):
        controlled.control.load("gather")
    controlled.control.unload("gather")
    assert controlled.index() == []


@pytest.mark.parametrize("call", ["load", "unload"])
def test_a_model_that_never_served_is_reported_until_a_call_finds_nothing_of_it(
    models: Path, start: Start, call: str
) -> None:
    controlled = start("explicit")
    file = spoil(models, "broken", 1)
    with pytest.raises(ControlError):
        controlled.control.load("broken")
    assert controlled.index() == [("broken", "1", "UNAVAILABLE")]
    remove(file)
    with pytest.raises(NotFoundError):
        getattr(controlled.control, call)("broken")
    assert controlled.index() == []


def test_a_new_version_is_warmed_up_before_it_takes_requests(
    models: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled = start("explicit", load_model=("gather",), max_batch_size=8)
    add(models, "gather", 2)
    run, meanwhile = Runtime.run, set()

    def noting(runtime: Runtime, inputs: Tensors, **options: bool) -> dict[str, Array]:
        meanwhile.add((controlled.engine.model("gather").version, len(inputs["index"])))
        return run(runtime, inputs, **options)

    monkeypatch.setattr(Runtime, "run", noting)
    controlled.control.load("gather")
    assert {("1", 1), ("1", 8)} <= meanwhile  # a lone request and the largest batch
    assert all(version == "1" for version, _ in meanwhile)
    assert controlled.engine.model("gather").version == "2"


def test_a_replaced_model_finishes_its_requests_and_then_takes_no_more(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("text",), limits=Limits(linger_seconds=3600))
    old = controlled.engine.model("text")
    controlled.control.load("text")
    caller = Caller()
    inputs = {"text": np.array(["a"], np.object_)}
    old.submit(inputs, {"text": "BYTES"}, caller)  # from a thread that looked the model up before
    controlled.control.close()
    assert caller.answer.outputs["shouted"].tolist() == ["a!"]
    with pytest.raises(UnavailableError):
        old.submit(inputs, {"text": "BYTES"}, caller)


def test_of_versions_that_no_longer_serve_nothing_is_kept(models: Path, start: Start) -> None:
    controlled = start("explicit", load_model=("*",))
    for version in (2, 3, 4):
        add(models, "gather", version)
        controlled.control.load("gather")
    assert set(controlled.control._stamps) == {("gather", "4"), ("text", "1")}


def test_a_server_that_stops_changes_nothing_any_more(models: Path, start: Start) -> None:
    explicit, polling = start("explicit", load_model=("gather",)), start("poll")
    for each in (explicit, polling):
        each.control.stop()
    add(models, "gather", 2)
    for change in (explicit.control.load, explicit.control.unload):
        with pytest.raises(UnavailableError, match="stopping"):
            change("gather")
    polling.control.poll()
    assert explicit.served() == {"gather": ["1"]}
    assert polling.served() == {"gather": ["1"], "text": ["1"]}
