import copy
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hangtag.training.catalog import recipe_for
from hangtag.training.cli import train
from hangtag.training.losses.single_label import DistanceLoss
from hangtag.training.runs.command import command
from hangtag.training.runs.config import RunConfig, TeacherFile, portable
from hangtag.training.runs.identity import identity
from tests.training.configs import make_config

TWO = (TeacherFile("0a", "a b.onnx"), TeacherFile("1b", "c.onnx"))
USUAL = replace(make_config(), recipe=recipe_for("study", "lstm"), limit=None)


def parsed(line: str) -> dict[str, Any]:
    """The parameters that `hangtag train` parses from a command line and that are not its defaults."""
    words = shlex.split(line)
    assert words[:2] == ["hangtag", "train"]
    context = train.make_context("train", words[2:])
    usual = train.make_context("train", ["lstm"]).params
    return {name: value for name, value in context.params.items() if value != usual[name]}


@pytest.mark.parametrize(
    ("config", "understood"),
    [
        (USUAL, {}),
        (replace(USUAL, model="cnn", seed=3, limit=96), {"model": "cnn", "seed": 3, "limit": 96}),
        (replace(USUAL, recipe=replace(USUAL.recipe, epochs=4)), {"epochs": 4}),
        (replace(USUAL, precision="bf16", device="cuda"), {"precision": "bf16", "device": "cuda"}),
        (
            replace(USUAL, model="cnn_rnn", recipe=recipe_for("multi-label", "cnn_rnn"), dataset="outfits"),
            {"model": "cnn_rnn", "recipe": "multi-label", "data": "outfits"},
        ),
        (
            replace(USUAL, recipe=recipe_for("best", "lstm"), teachers=TWO),
            {"recipe": "best", "teachers": (Path("a b.onnx"), Path("c.onnx"))},
        ),
        (
            replace(USUAL, loss=DistanceLoss("embedding-distance", 2.5, 0.25, "0f", file="near.json")),
            {"loss": "embedding-distance", "beta": 2.5, "loss_weight": 0.25, "distances": Path("near.json")},
        ),
        (
            replace(USUAL, loss=DistanceLoss("soft-labels", 5.0, 0.5, "0f")),
            {"loss": "soft-labels", "beta": 5.0, "loss_weight": 0.5},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_command_parses_to_the_configs_settings(config: RunConfig, understood: dict[str, Any]) -> None:
    parameters = parsed(command(config.as_json()))
    assert parameters.pop("threads") == 1
    assert parameters.pop("device") == config.device
    recipe = {} if config.recipe.name == "best" or config.dataset != "fashion-mnist" else {"recipe": "study"}
    assert parameters == recipe | {name: value for name, value in understood.items() if name != "device"}


def test_the_command_names_local_paths_only_for_a_run_to_resume() -> None:
    config = replace(USUAL, data_dir="my data")
    assert parsed(command(config.as_json(), Path("runs/my run")))["out"] == Path("runs/my run")
    assert parsed(command(config.as_json(), Path("runs/my run")))["data_dir"] == Path("my data")
    assert not parsed(command(config.as_json())).keys() & {"out", "data_dir"}


def test_a_published_config_names_no_folders_of_this_machine() -> None:
    files = (TeacherFile("0a", "/home/me/models/resnet/1/model.onnx"), TeacherFile("1b", "models/cnn/2/model.onnx"))
    loss = DistanceLoss("soft-labels", 5.0, 0.5, "0f", file="/home/me/all/of/it.json")
    config = replace(USUAL, data_dir="/home/me/data", teachers=files, loss=loss).as_json()
    published = portable(config)
    assert "/home/me" not in json.dumps(published)
    assert [file["path"] for file in published["teachers"]] == ["resnet/1/model.onnx", "models/cnn/2/model.onnx"]
    assert published["loss"]["file"] == "all/of/it.json"
    assert identity(published) == identity(config)
    assert "/home/me/data" in json.dumps(config)  # left as it was
    assert portable(USUAL.as_json()) == USUAL.as_json()


def test_a_recipe_of_another_version_names_its_epochs() -> None:
    assert " --recipe tiny --epochs 2 " in command(make_config().as_json())


def test_config_files_of_earlier_versions_are_understood() -> None:
    """As the first version of this code wrote it, and a later one with one teacher."""
    recipe = {"name": "study", "batch_size": 32, "epochs": 10, "learning_rate": 1e-3, "betas": [0.9, 0.999]}
    first = {
        "model": "lstm", "recipe": recipe | {"epsilon": 1e-7}, "seed": 0, "data_digest": USUAL.data_digest,
        "limit": None, "precision": "fp32", "threads": 1, "device": "cpu", "environment": {"torch": "2.8"},
    }  # fmt: skip
    assert identity(first) == identity(USUAL.as_json())
    assert command(first) == command(USUAL.as_json())
    taught = first | {"teacher": "models/cnn/1/model.onnx@0a1b"}
    assert identity(taught)["teacher"] == "0a1b"
    assert parsed(command(taught))["teachers"] == (Path("models/cnn/1/model.onnx"),)


def test_a_teacher_of_an_earlier_version_saw_each_image_once() -> None:
    requested = replace(USUAL, recipe=recipe_for("best", "lstm")).as_json()
    stored = copy.deepcopy(requested)
    del stored["recipe"]["distillation"]["views"]
    assert identity(stored) == identity(requested)
    stored["recipe"]["distillation"]["same_view"] = False
    assert identity(stored) == identity(requested)
    stored["recipe"]["distillation"]["same_view"] = True  # a teacher that answered in every step
    assert identity(stored) != identity(requested)
    requested["recipe"]["distillation"]["views"] = 8
    assert identity(stored) != identity(requested)


def test_paths_do_not_distinguish_runs() -> None:
    loss = DistanceLoss("soft-labels", 5.0, 0.5, "0f")
    one = replace(USUAL, loss=loss, teachers=TWO)
    moved = replace(
        USUAL,
        loss=replace(loss, file="there"),
        teachers=(TeacherFile("1b", "d"), TeacherFile("0a", "c")),
        data_dir="elsewhere",
    )
    assert identity(one.as_json()) == identity(moved.as_json())
    assert identity(replace(one, loss=replace(loss, distances="1f")).as_json()) != identity(one.as_json())
    assert identity(replace(one, teachers=one.teachers[:1]).as_json()) != identity(one.as_json())
