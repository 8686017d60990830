"""``hangtag route tune`` on the shipped models, and the arithmetic of a cascade's threshold."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.choose.candidates import Model, best, curve
from hangtag.serving.model_repository import ModelFile
from tests.kit import onnx_models, shipped
from tests.kit.command import invoke
from tests.kit.server import server
from tests.kit.shipped import MODELS

NEWEST_CNN = f"cnn@{shipped.latest('cnn').parent.name}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("lstm", "lstm2", "cnn"):
        (models / name).symlink_to(MODELS / name)
    onnx_models.publish(models, "gather", onnx_models.gather())
    onnx_models.publish(models, "colours", onnx_models.colours())
    return models


def settings(models: Path) -> list[str]:
    return ["--models", str(models), "--limit", "300"]


def tune(models: Path, *arguments: str, exit_code: int = 0) -> str:
    """The output of the command, in one line."""
    return " ".join(invoke("route", "tune", *arguments, *settings(models), exit_code=exit_code).output.split())


def read(models: Path, name: str) -> Any:
    """The written route, as ``hangtag models show`` reads it."""
    return json.loads(invoke("models", "show", name, "--models", models, "--json").stdout)


@pytest.fixture(scope="module")
def chosen(models: Path) -> str:
    """The output of the command that writes the route ``chosen``."""
    return tune(models, "lstm", "cnn", "--lose-at-most", "0.5", "--name", "chosen")


def test_the_threshold_is_chosen_and_written_with_where_it_came_from(models: Path, chosen: str) -> None:
    route = read(models, "chosen")
    bound = route["accept"]["at_least"]
    assert [member["model"] for member in route["members"]] == ["lstm", "cnn"]
    assert 0.3 < bound < 1
    assert f"Chosen: {bound:g}." in chosen
    assert f" Of 300 validation images, {route['expected_sent_on']:.1%} go on to cnn" in chosen
    assert route["description"].startswith("Chosen by 'hangtag")
    assert ": of 300 validation images, " in route["description"]
    assert "; lstm@2 alone has " in route["description"]
    assert "hangtag models load chosen" in chosen
    # With a larger limit, the threshold is lower.
    tune(models, "lstm", "cnn", "--lose-at-most", "2", "--name", "looser")
    assert read(models, "looser")["accept"]["at_least"] < bound


def test_a_route_is_replaced_only_by_name_and_a_dry_run_writes_nothing(models: Path) -> None:
    file = models / "kept/route.toml"
    file.parent.mkdir()
    file.write_text("split = {cnn = 100}")
    refused = tune(models, "lstm", "cnn", "--name", "kept", exit_code=1)
    assert "--name" in refused
    assert "--replace" in refused
    printed = tune(models, "lstm", "cnn", "--lose-at-most", "9", "--name", "kept", "--dry-run")
    assert "faster than" not in printed
    assert "You need no cascade, because lstm alone" in printed
    assert file.read_text() == "split = {cnn = 100}"
    # A member may be one version of a model.
    pictures = MODELS.parent / "examples/test-images.npz"
    tune(models, "lstm", "cnn@1", "--name", "kept", "--replace", "--samples", str(pictures))
    route = read(models, "kept")
    assert [(member["model"], member["version"]) for member in route["members"]] == [("lstm", 2), ("cnn", 1)]
    assert re.search(r"% go on to cnn@1, .*; lstm@2 alone has \d\S+%, cnn@1 \d", route["description"])


def test_three_models_have_one_threshold(models: Path) -> None:
    printed = tune(models, "lstm", "lstm2", "cnn", "--lose-at-most", "0.5", "--name", "three")
    route = read(models, "three")
    assert [member["model"] for member in route["members"]] == ["lstm", "lstm2", "cnn"]
    assert re.search(r"% go on to lstm2 and \d+\.\d% to cnn, and \d", route["description"])
    assert re.search(
        rf"; lstm@2 alone has \d\S+%, lstm2@2 \d\S+%, {NEWEST_CNN} \d\S+%; 0 of 300 are wrong", route["description"]
    )
    assert f" Of 300 validation images, {route['expected_sent_on']:.1%} go on to lstm2 and" in printed
    bound = route["accept"]["at_least"]
    assert re.search(rf" cnn at {bound:g} +{route['expected_sent_on']:.1%}, \d+\.\d% ", printed)


def test_a_cascade_that_is_no_faster_than_its_last_model_is_not_written(models: Path) -> None:
    """If lstm2 precedes lstm in a cascade, each image that lstm2 passes on costs more than with lstm alone."""
    refused = tune(models, "lstm2", "lstm", "--name", "slow", exit_code=1)
    assert "faster than lstm alone, so no route was written. Serve only lstm" in refused
    cost = r"a threshold at which the cascade takes less than [\d,]+ µs \(the time of lstm\), raise --lose-at-most\.$"
    assert re.search(cost, refused)
    assert not (models / "slow").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("lstm lstm", "named twice: lstm, lstm."),
        (f"{NEWEST_CNN} cnn", f"named twice: {NEWEST_CNN}, cnn."),
        ("lstm cnn@77", f"has no cnn@77, but has {NEWEST_CNN}, cnn@1."),
        ("lstm", "at least two models"),
        ("", "Missing argument"),
        ("lstm cnm", "no model 'cnm'; the models there: "),
        ("lstm cnn --name ../x", "--name"),
        ("lstm cnn --name lstm2", "--name"),
        ("lstm gather", "has the inputs index: INT64 [any]"),
        ("lstm colours", "lstm and colours differ in their inputs: image: UINT8 [any, 28, 28] and image: UINT8"),
    ],
)
def test_mistakes_are_named(models: Path, arguments: str, hint: str) -> None:
    done = tune(models, *arguments.split(), exit_code=2 if arguments in ("", "lstm") or "../x" in arguments else 1)
    assert hint in done


@pytest.mark.usefixtures("chosen")
def test_a_route_on_a_server_is_right_as_often_as_its_curve_says(models: Path) -> None:
    described = read(models, "chosen")["description"]
    with server(models, http_port=-1, provider="cpu") as running:
        options = ("--server", running.address, "--split", "validation", "--limit", 300, "--json")
        served = json.loads(invoke("evaluate", "chosen", *options).stdout)
    assert f"{served['accuracy']:.2%}" in described
    assert served["subject"]["details"]["version"] == "1"


# Thresholds for four samples. FIRST's four answers are, in this order: correct with high confidence, correct with low
# confidence, wrong with low confidence, and wrong with high confidence.

FILE = ModelFile("any", 1, MODELS / "cnn/1/model.onnx")


def model(confidence: list[float], right: list[bool], times: int = 1) -> Model:
    return Model("any", FILE, np.tile(confidence, times), np.tile(right, times), 0.001, 0.001)


FIRST = model([0.95, 0.6, 0.7, 0.81], [True, True, False, False])
SECOND = model([0.9, 0.8, 0.7, 0.6], [True, True, True, True])
THIRD = model([0.5, 0.9, 0.8, 0.7], [True, True, False, True])


def test_of_three_models_the_same_threshold_decides_at_each_but_the_last() -> None:
    points = {point.threshold: point for point in curve([FIRST, SECOND, THIRD])}
    # The second sample stops at the second model, whose confidence of 0.8 is enough. The third sample passes through
    # all models, and is still misclassified.
    assert (points[0.75].reached, points[0.75].accuracy, points[0.75].lost) == ((1.0, 0.5, 0.25), 0.5, 1)
    assert (points[1.0].reached, points[1.0].accuracy, points[1.0].lost) == ((1.0, 1.0, 1.0), 0.75, 0)


def test_what_is_not_a_number_goes_on_as_on_the_server() -> None:
    first = model([np.nan, 0.6, 0.7, 0.81], [True, True, False, False])
    assert curve([first, SECOND])[0].reached == (1.0, 0.25)


@pytest.mark.parametrize(
    ("times", "lose", "threshold"),
    [(100, 0.0, 0.815), (100, 0.25, 0.815), (100, 0.29, 0.705), (100, 0.6, 0.0), (1, 0.5, 0.815), (1, 1.0, 0.0)],
)
def test_the_lowest_threshold_that_is_shown_to_lose_no_more_is_chosen(
    times: int, lose: float, threshold: float
) -> None:
    """A threshold of 0.705 misclassifies a quarter of the samples, and a threshold of 0.0 half of them. If one of
    four samples is misclassified, the upper bound is 0.75, which exceeds the limit of 0.5."""
    models = [model(each.confidence.tolist(), each.right.tolist(), times) for each in (FIRST, SECOND)]
    chosen = best(curve(models), 0.0, lose)
    assert chosen is not None
    assert chosen.threshold == threshold


def test_if_every_threshold_loses_too_much_none_is_chosen() -> None:
    first = model([1.0] * 4, [True, False, True, False])  # the first model is sure, so SECOND gets no sample
    assert best(curve([first, SECOND]), 0.0, 0.001) is None
