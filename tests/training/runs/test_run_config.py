"""What a run's folder says of what was requested, and which asking it takes for its own."""

import json
from pathlib import Path

import pytest
import torch

from hangtag.training.catalog import recipe_for
from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.config import TeacherFile
from hangtag.training.runs.environment import environment, git_revision
from hangtag.training.runs.run import Run
from tests.training.configs import begin, make_config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "one")


def test_the_config_is_written_first_and_whole(run: Run) -> None:
    begin(run)
    stored = json.loads((run.folder / "config.json").read_text())
    assert stored.pop("environment") | {"created": ""} == environment() | {"created": ""}
    assert stored == {
        "model": "lstm",
        "recipe": {
            "name": "tiny",
            "batch_size": 32,
            "epochs": 2,
            "learning_rate": 1e-3,
            "optimizer": "adam",
            "betas": [0.9, 0.999],
            "epsilon": 1e-7,
            "weight_decay": 0.0,
            "schedule": "constant",
            "ema_decay": 0.0,
            "batch_norm": False,
            "dropout": None,
            "label_smoothing": 0.0,
            "augmentation": {"flip": False, "shift": 0, "erase": 0.0},
            "distillation": None,
        },
        "seed": 0,
        "data_digest": "of no matter here",
        "limit": 96,
        "precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "processes": 1,
        "dataset": "fashion-mnist",
        "teachers": [],
        "loss": None,
        "data_dir": None,
        "tensorboard": False,
    }
    assert [path.name for path in run.folder.iterdir()] == ["config.json"]


def test_the_environment_records_versions_time_and_revision() -> None:
    recorded = environment()
    assert recorded["torch"] == torch.__version__
    assert recorded["created"].endswith("+00:00")
    assert recorded["git_revision"] == git_revision()


def test_a_run_is_named_by_model_recipe_and_seed() -> None:
    assert make_config("cnn", seed=3).run_name == "cnn-tiny-seed3"


def test_the_same_config_may_start_again_and_keeps_its_file(run: Run) -> None:
    begin(run)
    before = (run.folder / "config.json").read_bytes()
    begin(run)
    assert (run.folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": "cnn"}, "another model (model: lstm there, cnn requested)"),
        ({"seed": 1}, "another seed (seed: 0 there, 1 requested)"),
        ({"limit": None}, "another limit (limit: 96 there, None requested)"),
        ({"recipe": make_config(epochs=3).recipe}, "another recipe.epochs (recipe.epochs: 2 there, 3 requested)"),
        (
            {"seed": 1, "limit": 2},
            "another seed and limit (seed: 0 there, 1 requested, limit: 96 there, 2 requested)",
        ),
        (
            {"model": "resnet", "recipe": recipe_for("teacher", "resnet")},
            "another model and recipe.name "
            "(model: lstm there, resnet requested, recipe.name: tiny there, teacher requested)",
        ),
        ({"data_digest": "x"}, "another data_digest (data_digest: of no matter here there, x requested)"),
        ({"teachers": (TeacherFile("0a1b", "cnn.onnx"),)}, "another teacher (teacher: None there, 0a1b requested)"),
    ],
)
def test_another_config_is_refused_by_name(run: Run, changes: dict[str, object], difference: str) -> None:
    begin(run)
    before = (run.folder / "config.json").read_bytes()
    with pytest.raises(RunMismatchError) as caught:
        begin(run, **changes)
    assert f"{run.folder} holds a run with {difference}. " in str(caught.value)
    assert "--restart" in str(caught.value)
    assert (run.folder / "config.json").read_bytes() == before


def test_a_run_may_continue_with_another_number_of_threads(run: Run) -> None:
    begin(run, threads=2)
    begin(run, threads=1)
    assert run.read_config()["threads"] == 1


def test_teachers_are_compared_by_their_contents_alone(run: Run) -> None:
    begin(run, teachers=(TeacherFile("0a", "cnn.onnx"), TeacherFile("1b", "resnet.onnx")))
    begin(run, teachers=(TeacherFile("1b", "elsewhere/resnet.onnx"), TeacherFile("0a", "cnn.onnx")))
    assert run.read_config()["teachers"][0] == {"digest": "1b", "path": "elsewhere/resnet.onnx"}
    for others, digests in [(("0a",), "0a"), (("0a", "2c"), "0a and 2c"), ((), "None")]:
        with pytest.raises(
            RunMismatchError, match=rf"another teacher \(teacher: 0a and 1b there, {digests} requested\)"
        ):
            begin(run, teachers=tuple(TeacherFile(digest, "cnn.onnx") for digest in others))


@pytest.mark.parametrize(("stored", "digests"), [("models/cnn/1/model.onnx@0a1b", ["0a1b"]), (None, [])])
def test_a_run_of_the_version_with_at_most_one_teacher_resumes(
    run: Run, stored: str | None, digests: list[str]
) -> None:
    begin(run)
    config = run.read_config()
    del config["teachers"], config["loss"]
    (run.folder / "config.json").write_text(json.dumps(config | {"teacher": stored}))
    begin(run, teachers=tuple(TeacherFile(digest, "elsewhere.onnx") for digest in digests))
    with pytest.raises(RunMismatchError, match="another teacher"):
        begin(run, teachers=(TeacherFile("2c", "models/cnn/1/model.onnx"),))


@pytest.mark.parametrize("name", ["metrics.json", "checkpoint.pt", "best.pt"])
def test_files_of_an_unknown_run_are_refused(run: Run, name: str) -> None:
    begin(run)
    (run.folder / name).write_text('{"epochs": [], "summary": {}}')
    (run.folder / "config.json").unlink()
    with pytest.raises(RunMismatchError, match=rf"holds {name} but no config\.json"):
        begin(run)
