"""``hangtag choose`` on shipped models, and the arithmetic of its candidates and of the simulated queue."""

import json
import re
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.choose import report, trial
from hangtag.choose.candidates import OVERLOAD, Candidate, Model, Outcome, candidates, curve
from hangtag.choose.choice import LOSE, Wanted, calibrated, predicted, ranked
from hangtag.choose.measuring import Measured
from hangtag.choose.queueing import Machine, simulate
from hangtag.evaluation.subject import EvaluationError
from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.browser import chromium, require_good_looks
from tests.kit.command import invoke
from tests.kit.shipped import MODELS

# FAST's answers to the four samples are right and sure, right and unsure, wrong and unsure, and wrong and sure. SLOW is
# slower, and always right.
SURE, RIGHT = np.array([0.95, 0.6, 0.7, 0.81]), np.array([True, True, False, False])
IDLE = Machine(processors=2)


def model(name: str, confidence: Any, right: Any, times: dict[int, float], **settings: Any) -> Model:
    config = ServerConfig(models=MODELS, **{"instances": 2, **settings})
    return Model(name, ModelFile(name, 1, MODELS / name / "1/model.onnx"), confidence, right, times, config)


FAST = model("fast", SURE, RIGHT, {1: 0.002, 64: 0.064})
SLOW = model("slow", np.array([0.9, 0.8, 0.7, 0.6]), np.ones(4, bool), {1: 0.004, 64: 0.64})
WORSE = model("worse", SURE[::-1].copy(), ~RIGHT, {1: 0.1, 64: 6.4})


def alone(times: dict[int, float], **settings: Any) -> Candidate:
    """A single model with these times and settings."""
    return curve([model("any", SURE, RIGHT, times, **settings)])[0]


def load_tested(one: Candidate, *problems: str) -> Candidate:
    """A candidate whose load test measured exactly the predicted figures."""
    problems += ("calls failed",) * one.predicted.failed
    return replace(one, tested=replace(one.predicted, problems=problems))


def named(listed: list[Candidate]) -> dict[str, Candidate]:
    return {one.name: one for one in listed}


def test_every_model_and_every_cascade_that_may_gain_is_a_candidate_at_its_cheapest_threshold() -> None:
    listed = named(candidates([SLOW, WORSE, FAST], accuracy=0.75))
    assert list(listed) == ["fast", "slow", "worse", "fast → slow"]  # no cascade includes "worse", the slowest model
    cascade = listed["fast → slow"]
    assert (cascade.threshold, cascade.accuracy, cascade.reached) == (0.705, 0.75, (1.0, 0.5))
    assert cascade.cost == pytest.approx(0.001 + 0.5 * 0.01)
    assert (listed["fast"].accuracy, listed["fast"].cost) == (0.5, 0.001)
    # A cascade that passes on all samples is neither cheaper nor more accurate than its last model.
    assert list(named(candidates([SLOW, FAST], accuracy=1.01))) == ["fast", "slow"]


def test_a_third_model_has_to_pay() -> None:
    """A middle model that passes on a third of its samples is worth its cost if it is fast, but not if it is slow."""
    sure, right = np.array([0.9, 0.9, 0.7, 0.9]), np.array([True, True, False, True])
    middle = [model("middle", sure, right, {1: each, 64: 64 * each}) for each in (0.006, 0.008)]
    listed = [named(candidates([FAST, one, SLOW], accuracy=1.0)) for one in middle]
    assert ["fast → middle → slow" in each for each in listed] == [True, False]


def test_a_queue_fills_while_busy_and_overflows_above_what_is_computed() -> None:
    one = alone({1: 0.001, 64: 0.064})
    lone = simulate(one, IDLE, rate=1.0, calls=500)
    assert lone.throughput == pytest.approx(1.0, rel=0.2)
    assert lone.p99 == pytest.approx(0.001)
    busy = simulate(one, IDLE)
    assert busy.throughput == pytest.approx(2000)
    assert busy.p99 == pytest.approx(0.032)  # each of two processors computes 32 of the 64 calls
    assert simulate(one, IDLE, rate=1900.0).p99 > 3 * lone.p99
    assert simulate(one, IDLE, rate=2500.0) == OVERLOAD


def test_a_model_is_played_with_its_own_settings() -> None:
    def at(rate: float | None, **settings: Any) -> Outcome:
        # A batch of 64 takes as long as a batch of 1.
        return simulate(alone({1: 0.001, 64: 0.001}, **settings), IDLE, rate)

    assert at(None, max_batch_size=1).throughput == pytest.approx(2000)
    assert at(None, max_batch_size=4).throughput == pytest.approx(8000)
    assert at(None, max_batch_size=4, instances=1).throughput == pytest.approx(4000)
    assert at(10.0, max_queue_delay_microseconds=20_000).p99 == pytest.approx(0.021)
    # A full batch does not wait.
    assert at(10_000.0, max_queue_delay_microseconds=10_000_000, max_batch_size=8).p99 < 0.01
    assert at(3000.0, max_batch_size=2, max_queue_size=2) == OVERLOAD


def test_a_cascade_costs_what_goes_on_and_a_call_its_transport() -> None:
    listed = candidates([FAST, SLOW], accuracy=0.75)
    fast, _, cascade = listed
    through = simulate(cascade, IDLE)
    assert through.throughput == pytest.approx(2 / (0.001 + 0.5 * 0.01), rel=0.05)
    assert through.p99 > simulate(fast, IDLE).p99 + 0.02  # a sample that reaches the second model waits in two queues
    with_calls = simulate(cascade, Machine(2, 0.002)).throughput
    assert with_calls == pytest.approx(2 / (0.001 + 0.5 * 0.01 + 0.002), rel=0.05)
    machine = Machine(2, 0.0005, 1.3, 0.0002)
    known = [replace(one, tested=simulate(one, machine)) for one in listed]
    assert astuple(calibrated(known, IDLE)) == pytest.approx(astuple(machine), rel=0.1)
    # The overhead of 0.8 ms includes 0.3 ms of computing.
    assert astuple(calibrated(known[:1], IDLE)) == pytest.approx((2, 0.0008, 1, 0), rel=0.05)
    assert astuple(calibrated([replace(fast, tested=Outcome(1e9, 0.0))], IDLE)) == pytest.approx((2, 0, 1, 0), abs=1e-6)


def test_what_meets_everything_comes_first_and_then_what_is_nearest() -> None:
    listed = candidates([FAST, SLOW], accuracy=0.75)

    def order(wanted: Wanted) -> list[tuple[str, list[str]]]:
        before = [predicted(one, IDLE, wanted.rate) for one in listed]
        tested, order = [
            [(one.name, wanted.missed_by(one)) for one in ranked(each, wanted)]
            for each in ([load_tested(one) for one in before], before)
        ]
        assert tested == order
        return order

    assert order(Wanted(0.75)) == [("fast → slow", []), ("slow", []), ("fast", ["accuracy"])]
    assert order(Wanted(0.0))[0] == ("fast", [])
    assert order(Wanted(0.75, p99=0.1, rate=10))[0] == ("fast → slow", [])
    assert order(Wanted(0.75, p99=0.0001, rate=10)) == [
        ("slow", ["p99"]), ("fast → slow", ["p99"]), ("fast", ["accuracy", "p99"]),
    ]  # fmt: skip
    assert order(Wanted(0.75, rate=1500.0)) == [
        ("fast", ["accuracy"]), ("fast → slow", ["rate"]), ("slow", ["rate"]),
    ]  # fmt: skip


def test_the_sentences_name_what_the_figures_do_not_show() -> None:
    images = np.zeros((4, 28, 28), np.uint8)
    measured = Measured([FAST, SLOW], images, "4 validation images", chose_epochs=True)
    one = predicted(candidates([FAST, SLOW], accuracy=0.75)[-1], IDLE, None)

    def sentences(one: Candidate) -> str:
        return " ".join(report.sentences([one], Wanted(0.75, lose_at_most=LOSE), measured))

    before = sentences(one)
    assert " Predicted without the overhead of a call (see --try): " in before
    assert "The models' best epochs were chosen by these images" in before
    assert "too few to show that a cascade loses at most 0.10%. At least 2,995 images are needed." in before
    invalid = sentences(load_tested(one, "the generator was late"))
    assert "the load test of fast → slow at 0.705 is invalid. Repeat it on an idle machine." in invalid
    assert "No candidate has" not in invalid


def test_a_stopped_load_test_chooses_nothing() -> None:
    stop = threading.Event()
    stop.set()
    shipped, images = model("lstm-int8", SURE, RIGHT, {1: 0.001}), np.zeros((4, 28, 28), np.uint8)
    with pytest.raises(EvaluationError, match="was stopped"):
        trial.load_test(curve([shipped])[:1], None, 1.0, repository=MODELS, images=images, on_progress=print, stop=stop)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    for name in ("lstm-int8", "cnn-int8"):
        (models / name).symlink_to(MODELS / name)
    onnx_models.publish(models, "gather", onnx_models.gather())
    onnx_models.publish(models, "colours", onnx_models.colours())
    return models


def choose(models: Path, *arguments: str, exit_code: int = 0) -> str:
    """The output of the command, in one line."""
    options = ("--models", models, "--limit", 400, "--report", models.parent / "choose.html")
    return " ".join(invoke("choose", *arguments, *options, exit_code=exit_code).output.split())


def test_the_best_are_served_and_load_tested_and_the_choice_becomes_a_route(models: Path) -> None:
    printed = choose(models, "--try", "1", "--seconds", "0.3", "--write", "both")
    assert "left out: " in printed
    assert "has the inputs index: INT64 [any]" in printed
    assert "left out: cnn-int8 and colours differ in their inputs: " in printed
    assert "Running and timing cnn-int8, lstm-int8 on 400 validation images." in printed
    assert "Load-testing lstm-int8 → cnn-int8, cnn-int8." in printed
    served = re.search(
        r"Serve (lstm-int8 → )?cnn-int8(?: at (0\.\d+))?, which is the fastest candidate with 9\d\.\d\d% right", printed
    )
    assert served
    assert re.search(r" Measured: [\d,.]+ calls/s with 64 in flight, p99 ", printed)
    if served[1]:  # the machine was idle
        # 400 images are too few to show a loss of at most 0.1%, so the cascade must not make a single error.
        assert "; 0 of 400 are wrong although cnn-int8 is right; of new images, at most 0.75%" in printed
        assert "too few to show that a cascade loses at most 0.10%" in printed
        route = json.loads(invoke("models", "show", "both", "--models", models, "--json").stdout)
        assert [member["model"] for member in route["members"]] == ["lstm-int8", "cnn-int8"]
        assert route["accept"]["at_least"] == float(served[2])
        assert route["description"].startswith("Chosen by 'hangtag")
        assert "names the models that answer" in choose(models, "both", exit_code=1)
    page = (models.parent / "choose.html").read_text()
    (drawn,) = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    texts = " ".join("".join(drawn.itertext()).split())
    assert {"lstm-int8", "cnn-int8"} <= set(texts.split())
    assert "processor time of a sample" in texts
    with chromium() as browser:
        require_good_looks(browser, models.parent / "choose.html")


def test_a_serving_toml_counts_in_the_prediction(models: Path, tmp_path: Path) -> None:
    """A batch has room for 128 calls, so the 64 calls in flight wait for the whole delay of a second."""
    (tmp_path / "models/held").mkdir(parents=True)
    for version in (MODELS / "lstm-int8").iterdir():
        (tmp_path / "models/held" / version.name).symlink_to(version)
    settings = tmp_path / "models/held/serving.toml"
    settings.write_text("max_batch_size = 128\nmax_queue_delay_microseconds = 1_000_000\n")
    printed = choose(tmp_path / "models", "held", "--try", "0")
    assert re.search(r"\(see --try\): \d\d\.\d calls/s with 64 in flight, p99 1\.\d\d s", printed)
    settings.write_text("max_batch_size = 0\n")
    assert "serving.toml: max_batch_size" in choose(tmp_path / "models", "held", "--try", "0", exit_code=1)


def test_what_cannot_be_met_ends_with_the_nearest(models: Path) -> None:
    printed = choose(models, "--try", "0", "--accuracy-at-least", "99.9", "--write", "none", exit_code=1)
    assert "No candidate has 99.90% right. The nearest is cnn-int8, but its accuracy is lower." in printed
    assert re.search(r"the accuracy is 9\d\.\d\d% to 9\d\.\d\d% with 95 % confidence\. Predicted without ", printed)
    slow = choose(models, "--try", "0", "--p99", "1us", exit_code=1)
    assert "p99 within 1.00 µs with 64 in flight. The nearest is " in slow
    assert not (models / "none").exists()
    assert "--data x.txt: give FILE.npz" in choose(models, "cnn-int8", "--data", "x.txt", exit_code=1)
    assert "another name with --write" in choose(models, "lstm-int8", "--write", "cnn-int8", exit_code=1)


def test_a_repository_without_models_is_refused(tmp_path: Path) -> None:
    onnx_models.publish_route(tmp_path / "models", "both", "split = {cnn = 100}")
    assert "has no model that can be chosen." in choose(tmp_path / "models", exit_code=1)


def test_a_folder_without_a_version_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty has no version to serve: " in choose(tmp_path, "empty", exit_code=1)
    (tmp_path / "lstm-int8").symlink_to(MODELS / "lstm-int8")
    printed = choose(tmp_path, "--try", "0", "--limit", "50")
    assert f"left out: {tmp_path}/empty has no version to serve: " in printed
    assert "Serve lstm-int8" in printed
